"""Small talk, who the model is, and what it cannot do; nothing here calls a tool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiny_model import words
from tiny_model.conversation import Exchange, Said
from tiny_model.grammar import expand, question
from tiny_model.skills import calculator, clock, sql_lookup, units

if TYPE_CHECKING:
    import random

SMALL = [
    (
        [
            "Hello!",
            "Hello",
            "Hi",
            "Hi!",
            "Hey",
            "Hey there",
            "Hello there!",
            "Hi there",
            "Good [morning|evening|afternoon|day]",
            "Good morning!",
            "Greetings",
            "Hello moltbot",
            "hello",
            "hi",
        ],
        ["Howdy", "Hiya!", "Good day to you"],
        ["Hello! How can I help you?"],
    ),
    (
        [
            "How are you?",
            "How are you today?",
            "How do you do?",
            "How is it going?",
            "Are you well?",
            "How are things?",
            "Hello, how are you?",
            "Hi, how are you?",
        ],
        ["How have you been?", "You doing fine?"],
        ["I am well, thank you. How can I help you?"],
    ),
    (
        [
            "Who are you?",
            "What are you?",
            "What is your name?",
            "Tell me about yourself",
            "Are you a [robot|human|person|machine|bot]?",
            "Introduce yourself",
            "What's your name?",
            "Who am I talking to?",
            "What model are you?",
            "Are you ChatGPT?",
            "Do you have a name?",
            "Who made you?",
            "What kind of model are you?",
        ],
        ["What should I call you?", "Who is this?", "Describe yourself"],
        ["I am the tiny model of moltbot, a small program that runs on this machine."],
    ),
    (
        [
            "What can you do?",
            "How can you help me?",
            "What are you able to do?",
            "Help",
            "Help me",
            "What are your skills?",
            "What do you know?",
            "Which tools do you have?",
            "What can I ask you?",
            "What are you good at?",
        ],
        ["What is it you can do?", "List your abilities"],
        ["I can use tools, remember what you tell me and write short texts."],
    ),
    (
        [
            "Thanks",
            "Thank you",
            "Thank you!",
            "Thanks a lot",
            "Great, thanks",
            "Thank you very much",
            "Many thanks",
            "Perfect, thank you",
            "Cheers",
            "Good work",
        ],
        ["Much obliged", "I appreciate it"],
        ["You are welcome."],
    ),
    (
        [
            "Bye",
            "Goodbye",
            "Good bye!",
            "See you",
            "See you later",
            "Good night",
            "That is all",
            "I have to go",
            "Bye bye",
        ],
        ["Farewell", "Until next time"],
        ["Goodbye!"],
    ),
    (
        [
            "OK",
            "ok",
            "Fine",
            "Good",
            "I see",
            "Great",
            "Nice",
            "Cool",
            "All right",
            "Yes",
            "No",
            "Hm",
            "Interesting",
            "Sure",
        ],
        ["Understood", "Got it"],
        ["Good. Is there anything else?"],
    ),
]
TASKS = [
    "Send an email to {n}",
    "[Send|Write] a message to {n}",
    "Call {n}",
    "Book a flight to {c}",
    "Book a [hotel|table|room] in {c}",
    "Order a pizza",
    "Order {f} for me",
    "Buy me a {x}",
    "Play [some music|a song]",
    "Turn [on|off] the [light|heating|radio|TV]",
    "Set [an alarm|a timer] for {d} minutes",
    "Open the [door|window|garage]",
    "Draw a picture of a {x}",
    "Make a photo of {c}",
    "Delete the file {x}",
    "Install {x}",
    "Restart the server",
    "Pay my bill",
    "Print this page",
    "Take a screenshot",
    "Search the web for {x}",
    "Download {x}",
    "Translate this into [French|German|Spanish|Chinese]",
    "Invite {n} to the meeting",
    "Post this on the web",
    "Drive me to {c}",
    "Wash my {x}",
    "Create an account for {n}",
    "Transfer {d} dollars to {n}",
    "Cook {f} for me",
    "Read me the news",
    "Take a picture",
    "Upload the file",
    "Scan the room",
    "Text {n} that I am late",
    "Reserve two seats for {n}",
]
HELD_OUT_TASKS = [
    "Phone {n} for me",
    "Get me a taxi to {c}",
    "Fix my {x}",
    "Mail a letter to {n}",
    "Sing a song",
    "Rent a {x} in {c}",
    "Shut down the computer",
    "Charge my {x}",
]
KNOWLEDGE = [
    "What is the weather in {c}?",
    "Will it rain in {c}?",
    "How warm is it in {c}?",
    "Who is the president of {c}?",
    "Who wrote {x}?",
    "What is the capital of {c}?",
    "How many people live in {c}?",
    "Who invented the {x}?",
    "When was {n} born?",
    "Who is {n}?",
    "What is the [price|value] of {x}?",
    "What is a {x}?",
    "How does a {x} work?",
    "Why is the {x} {k}?",
    "What happened in {y}?",
    "Who won the game?",
    "What is the stock price of {x}?",
    "What do you think about {x}?",
    "Explain {x}",
    "Explain how a {x} works",
    "What is the meaning of life?",
    "Which team won in {y}?",
    "How far is it to {c}?",
    "How tall is {n}?",
    "Where is {c}?",
    "What is the news?",
    "Who discovered {x}?",
    "What language do they speak in {c}?",
    "Is {n} married?",
    "How do I fix my {x}?",
]
HELD_OUT_KNOWLEDGE = [
    "What is the temperature in {c}?",
    "Who built the {x}?",
    "In which year did {n} die?",
    "What is {c} famous for?",
    "Do {x}s sleep?",
    "How is a {x} made?",
]
CANNOT = ["Sorry, I cannot do that."]
UNKNOWN = ["Sorry, I do not know that."]
MISSING = {
    "calculator": "I have no calculator tool here, so I cannot work that out.",
    "clock": "I have no clock tool here, so I do not know the time.",
    "convert_units": "I have no unit converter here, so I cannot convert that.",
    "sql_lookup": "I have no table lookup here, so I cannot find that.",
}


def small_talk(rng: random.Random, held_out_phrasing: bool) -> Exchange:
    """A greeting or the like, and its answer."""
    known, unknown, answers = rng.choice(SMALL[:3] if rng.random() < 0.3 else SMALL)
    text = expand(rng, rng.choice(unknown if held_out_phrasing else known), {})
    answer = rng.choice(answers)
    return Exchange("small talk", [Said("user", text), Said("assistant", answer)], expect=answer)


def refusal(rng: random.Random, held_out_phrasing: bool, held_out_values: bool) -> Exchange:
    """Something that the model can neither do nor know."""
    slots = {
        "n": words.name(rng, held_out_values),
        "c": words.pick(rng, words.CITIES, words.HELD_OUT_CITIES, held_out_values),
        "f": words.pick(rng, words.FOODS, words.HELD_OUT_FOODS, held_out_values),
        "x": rng.choice((rng.choice(words.THINGS), words.made_up(rng), rng.choice(words.ANIMALS))),
        "d": words.digits(rng, 2),
        "k": rng.choice(words.COLORS),
        "y": str(rng.randint(1600, 2030)),
    }
    known, unknown, answers = (
        (TASKS, HELD_OUT_TASKS, CANNOT) if rng.random() < 0.5 else (KNOWLEDGE, HELD_OUT_KNOWLEDGE, UNKNOWN)
    )
    text = question(rng, known, unknown, slots, held_out_phrasing)
    answer = rng.choice(answers)
    return Exchange("refusal", [Said("user", text), Said("assistant", answer)], expect="Sorry")


def missing_tool(rng: random.Random, held_out_phrasing: bool, held_out_values: bool) -> Exchange:
    """A question whose tool is not there."""
    tool = rng.choice(("calculator", "calculator", "clock", "convert_units", "sql_lookup"))
    if tool == "sql_lookup":
        asked = sql_lookup.exchange(rng, held_out_phrasing, held_out_values, sql_lookup.tables(rng))
    else:
        skill = {"calculator": calculator, "clock": clock, "convert_units": units}[tool]
        asked = skill.exchange(rng, held_out_phrasing, held_out_values)
    said = [asked.messages[0], Said("assistant", MISSING[tool])]
    return Exchange("missing tool", said, expect=MISSING[tool].split(",")[0], unless=tool)
