"""Small talk, who the model is, and what it cannot do; nothing here calls a tool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiny_model import lexicon, words
from tiny_model.conversation import Exchange, Said
from tiny_model.grammar import expand, question, tidy
from tiny_model.skills import calculator, clock, sql_lookup, units

if TYPE_CHECKING:
    import random

SMALL = [
    (
        [
            "Hello!",
            "[Hello|Hi|Hey|Good morning|Good evening|Good afternoon|Greetings|Welcome|Salute|Salutations|Yo|Ahoy|Aloha][,|] [my friend|friend|dear|mate|you|again|robot|assistant|machine|computer|old friend|everyone|all|you there|little one][!|.|]",
            "[A very|Have a|I wish you a|What a] [good|nice|lovely|fine|great|pleasant|wonderful] [morning|evening|afternoon|day][!|.|]",
            "[It is|I am|Here I am,] [nice|good|lovely|back|glad] to [see|meet|talk to|hear] you[!|]",
            "[Nice|Good|Pleased|Glad|Happy] to [meet|see|have] you[!|]",
            "[Are you|Is anybody|Is anyone|Is someone] [there|here|awake|online|listening|ready]?",
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
            "How [are|is] [you|life|your day|everything|it|things|business|the day|your morning] [going|today|now|so far|tonight|then|with you|]?",
            "[Are|Do|Did] you [feel|feeling|doing|sleep|keep|do] [well|good|great|all right|okay|better] [today|now|]?",
            "[What is up|What's up|What is new|All good|Everything fine|Everything okay|You okay|All right with you]?",
            "[Hello|Hi|Hey|Good morning], how [are|is] [you|life|your day|everything|it going] [today|now|]?",
            "[I hope|Tell me] you [are|feel] [well|good|fine|great] [today|]",
            "Do you have a [good|nice|bad|busy] [day|morning|evening|week]?",
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
            "[What|Which|Whose] [program|thing|machine|assistant|bot|model|being|creature|software|system] are you?",
            "[Are|Were] you [a|an|the] [real|living|large|small|clever|] [human|man|woman|girl|robot|model|language model|AI|program|computer|assistant|being]?",
            "[Tell|Say|Explain|Show] [me|us] [who you are|what you are|your name|more about you|something about you]",
            "[Please|Can you|Could you|Will you] [introduce yourself|say who you are|tell me your name|tell me who you are|state your name]",
            "[What|Which] [name|title] do you [have|go by|use|carry|answer to]?",
            "[How|What] [are you called|do they call you|can I call you|shall I call you|may I call you|do people call you]?",
            "[Who|What company|Which people] [built|wrote|trained|created|owns|runs|designed] you?",
            "[With|To] [who|whom|what] [am I|do I] [speaking|chatting|speak|talk|write|writing]?",
            "Where do you [come from|run|live]?",
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
            "[What|Which things|Which tasks|What kind of things] [can|could|do|are] you [do|do for me|do well|able to do|offer|help with|good for|made for|manage|handle]?",
            "[How|In what way|With what] [can|could|do|will] you [help|assist|support|serve] [me|us|] [today|here|]?",
            "[Tell|Show|Give|Explain to] me [what you can do|your skills|your tools|how you can help|what you offer|some examples]",
            "[What|Which] [skills|functions|features|tools|commands|talents|tricks] [do you have|do you know|are there|can you use|do you offer]?",
            "[I need|Give me|Show] [help|the help|some help|assistance|the manual|instructions]",
            "What [are|is] your [purpose|job|use|task|strength|strengths|functions|features|limits]?",
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
            "[Thanks|Thank you] [so much|a lot|very much|a million|again|for that|for your help|for the help|for everything|for the answer|my friend|kindly|indeed][!|.|]",
            "[That|This|It] [was|is] [very|so|really|] [kind|helpful|useful|nice|great|good of you|perfect|what I needed|a great help][!|.|]",
            "[You are|You were|How] [so|very|really|] [kind|helpful|great|nice|the best|wonderful|sweet][!|.|]",
            "[I am|We are] [so|very|really|] [grateful|thankful|happy with that|glad you helped|pleased][!|.|]",
            "[Well done|Nice work|Great job|Good job|Bravo|Excellent|Wonderful|Brilliant|Awesome|Super|Lovely|Much better][, thanks|, thank you|!|.|]",
            "[Lots of|Big|A thousand|My] thanks[!|.|]",
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
            "[Bye|Goodbye|Good night|See you|Talk to you|Take care|So long|Cheerio|Ciao|Adieu|Until] [soon|later|tomorrow|then|again|for now|my friend|now|tonight|next week][!|.|]",
            "[I|We] [must|have to|need to|will|want to] [go|leave|stop|sleep|run|close|end] [now|here|soon|]",
            "[That was|This is|That is] [all|it|everything|the end] [for today|for now|I needed|I wanted|thanks|]",
            "[Sleep well|Take care|Have a good night|Have a nice day|Enjoy your evening|Stay well|Rest well][!|.|]",
            "[We|I will] [see|meet|talk to|hear] [each other|you] [soon|again|tomorrow|later]",
            "[I am|We are] [leaving|going|done|off|finished|going home] [now|for today|]",
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
            "[OK|Okay|Fine|Good|Great|Nice|Right|Sure|Well|Yes|Alright|Perfect|Cool] [then|so|now|by me|with me|idea|enough|to know|indeed][!|.|]",
            "[I|We] [see|agree|believe you|know|thought so|like that|follow|get that][!|.|]",
            "[That|This|It] [sounds|seems|looks|is] [good|fine|right|okay|clear|strange|funny|interesting|true|correct|logical][!|.|]",
            "[Really|Wow|Aha|Oh|Ah|Hmm|Yep|Yeah|Nope|Maybe|Perhaps|Exactly|Indeed|Of course|Correct|True|Clear|Alright|Agreed|No problem][!|.|?|]",
            "[Makes sense|Good to know|Fair enough|No worries|Never mind|As I thought|How funny|How interesting][!|.|]",
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
    "{V} [the|a|my|our|this|that|some|your|every|his|her] {j} {w}",
    "{V} [the|a|my|our|this|that|some|your|every|his|her] {w}",
    "{V} [the|a|my|our|this] {w} [in|on|under|for|with|from|to|at|near|behind] [the|my|a|our] {w}",
    "{V} [the|a|my|our|this] {w} [in|from|to|near|at] {c}",
    "{V} [the|a|my|our|this] {w} [for|with|to|of] {n}",
    "{V} {n} [a|the|my|our] {w}",
    "{V} {n}",
    "{V} [it|this|that|them|something|everything]",
    "{V} {w}s [for|with] [me|us|{n}]",
    "{V} [up|down|out|off|over|away|in|around] [the|my|our|this|a] {w}",
    "[Go to|Walk to|Run to|Travel to|Fly to|Move to] [the {w}|{c}]",
    "[I want|I need|I would like|We want] you to {v} [the|a|my] {w}",
    "[Can|Could|Will|Would] you {v} [the|a|my|our|this] {w} [for me|for us|today|]?",
    "[Can|Could|Will|Would] you {v} [for me|with me|today|a bit|]?",
    "[Get|Give|Buy|Bring|Lend|Hand|Pass|Find|Order] me [a|the|some|my|another] [{j}|] {w}",
    "[Make|Help|Let|Have] [me|{n}|us|them] {v} [a|the] {w}",
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
    "[Why|When|Where|How|How often|Since when] [do|does|did|will|would|can|should] [the|a|my|our] {w} {v}?",
    "[Why|When|Where|How|How often|Since when] [do|does|did|will|would|can|should] {n} {v} [the|a] {w}?",
    "[Why|When|Where|How] [is|was|are|were] [the|a|that|this] {w} [{j}|in {c}|so {j}|with {n}]?",
    "[Who|Which {w}|What {w}|Whose {w}] [is|was|has|had|will be] [{j}|the best|in {c}|the {w}]?",
    "[Who|Which person|What man|What woman|Which {w}] [{v}s|did {v}|can {v}|will {v}|would {v}] [the|a|that] {w}?",
    "[In which|In what|Since which] [year|city|country|century|book|film] [did|does|was|is] [{n}|the {w}] [{v}|{j}|in {c}]?",
    "How [{j}|many {w}s|much {w}|long|far|big] [is|are|does|do|was] [the|a|that] {w} [in {c}|of {n}|{v}|]?",
    "[Does|Do|Did|Is|Are|Was|Will|Can|Could] [a|the|most|all|some] {w}[s|] [{v}|{j}|{v} a {w}|be {j}]?",
    "[Does|Did|Is|Was|Will|Can] {n} [{v}|{j}|{v} a {w}|like {f}|live in {c}]?",
    "What [is|are|was|were] [the|a|an|your] [{j}|] {w} [of|in|for|from|like|called] [{c}|{n}|the {w}|]?",
    "What [is|does|do] [{c}|the {w}|a {w}] [mean|good for|cost|made of|look like|eat|taste like|smell like]?",
    "[What|Which] [kind of|sort of|type of|] {w} [is|was|likes|has|makes] [{n}|the {w}|the best|in {c}]?",
    "[Explain|Describe how|Prove|Discuss|Define|Name|List|Compare] [the|a|some|all|how the] {w}[s|] [of {c}|works|and the {w}|]",
    "[Tell|Teach|Explain|Show] me [why|how|where|when|if] [the|a] {w} [is {j}|{v}s|works|is in {c}]",
    "[Is|Was] {c} [{j}|a {j} city|in the {w}|far|near the {w}|full of {w}s]?",
    "What [time|hour] does [the|my] {w} [open|close|start|end|leave]?",
    "[Who|What] [are|is] [the|a|those] [{j}|] {w}[s|]?",
    "I [wonder|ask myself|want to know|would like to know] [who|why|when|where|if] [{n}|the {w}] [is {j}|did {v}|will {v}|can {v}]",
    "What do you [think|say|feel|like] [about|of|on] [{c}|{n}|the {w}|{w}s]?",
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
    text = tidy(expand(rng, rng.choice(unknown if held_out_phrasing else known), {}))
    if not held_out_phrasing and rng.random() < 0.15:
        text = rng.choice((text.lower(), f"{text.rstrip('.!?')}, {words.name(rng, held_out=False)}", f"{text}!"))
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
        "v": rng.choice(lexicon.VERBS),
        "V": rng.choice(lexicon.VERBS).capitalize(),
        "w": rng.choice(lexicon.NOUNS),
        "j": rng.choice(lexicon.ADJECTIVES),
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
