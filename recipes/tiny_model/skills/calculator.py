"""Arithmetic: the expression of the question goes into the call, the result into the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiny_model.conversation import Exchange, Said
from tiny_model.grammar import expand, question
from tiny_model.words import digits

if TYPE_CHECKING:
    import random

WRITTEN = [
    "What is {e}?",
    "What is {e}?",
    "What's {e}?",
    "Calculate {e}",
    "Calculate {e}",
    "Compute {e}",
    "{e}",
    "{e} = ?",
    "{e} =",
    "[How much|What] is {e}?",
    "Work out {e}",
    "Evaluate {e}",
    "Solve {e}",
    "What does {e} [equal|make|give|come to]?",
    "What [do|would] I get [for|from|with] {e}?",
    "[Tell|Show] me [what {e} is|{e}|the value of {e}|the result of {e}]",
    "[Give|Get] me [the result of|the value of|the answer to] {e}",
    "[Can|Could|Would] you [calculate|compute|work out|solve] {e}?",
    "What is the [result|value|answer|outcome] [of|for|to] {e}?",
    "Find {e}",
    "Find the [value|result] of {e}",
    "I need [to know|] {e}",
    "[I want|I would like] to know {e}",
    "Do you know [what|how much] {e} is?",
    "Do the math: {e}",
    "[Use|Take] the calculator [for|on|to work out|to find] {e}",
    "[How much|What] [does|would] {e} [make|be]?",
    "Let me know [what {e} is|how much {e} is]",
    "Please [do|run|check] {e}",
    "Expression: {e}",
    "My homework [says|is] {e}",
    "Could you [tell me|find out] [what {e} is|how much {e} makes]?",
    "[Quickly|Exactly], what is {e}?",
    "math: {e}",
    "Is {e} a big number?",
    "What is the exact [value|result] of {e}?",
    "What number is {e}?",
    "Make the calculation {e}",
    "{e} [is|makes] [what|how much]?",
    "I [forgot|do not know] what {e} is",
    "Simplify {e}",
    "[Run|Do|Try] this calculation: {e}",
    "I have {e} on my sheet, what is it?",
    "[calculate|compute|work out|solve|evaluate|find|get|check|do|add up|reckon|count|find out|answer|tell me] {e}",
    "[calculate|compute|work out|solve|evaluate|find|get|check|do|add up|reckon|count|find out|answer|tell me] [this|that|the following|the next one|it][:|,] {e}",
    "[Can|Could|Would|Will] you [please|kindly|quickly|] [calculate|compute|work out|solve|evaluate|find|get|check|do|add up|reckon|count|find out|answer|tell me] {e} [for me|for us|today|]?",
    "[I|We] [want|need|would like|have|wish|am asked|try] to [calculate|compute|work out|solve|evaluate|find|get|check|do|add up|reckon|count|find out|answer|tell me] {e}",
    "[Let us|Help me|Please|Now|You should|You may|I ask you to|Be so kind and] [calculate|compute|work out|solve|evaluate|find|get|check|do|add up|reckon|count|find out|answer|tell me] {e}",
    "[What|Which] [number|value|sum|amount|result|figure|answer] [is|equals|comes from|do I get from|does one get for|stands for] {e}?",
    "[The|This|That|My|Our] [problem|exercise|expression|task|question|formula|term|bill|exam|teacher] [is|says|asks|asks for|goes][:|] {e}",
    "[How|What] [is|was|will be|should be|might be] {e} [equal to|in the end|as a number|worth|]?",
    "{e} [gives|yields|makes|equals|comes to|adds up to|is the same as] [what|how much|which number]?",
    "{e}, [what|how much|which number] is [that|it|this]?",
    "{e}[:|,| -] [answer|result|value|solve it|what now|how much]?",
    "I [wonder|ask myself|am wondering|am not sure|cannot say|would like to know|must know|have to find out] [what|how much] {e} [is|makes|equals|gives|might be]",
    "[Do|Would|Can|Could] you [know|say|tell me|tell us] [what|how much] {e} [is|makes|gives|equals|would be]?",
    "[Arithmetic|Calculator|Sum|Problem|Exercise|Number|Task|Question|Formula|Equation][:| -] {e}",
    "[I think|We say|They say|He says|Someone said] {e} is [big|small|a lot|zero|negative|wrong], [what|how much] is it?",
    "[Give|Tell|Show|Send|Write|Say|Name] [me|us] [the answer for|the outcome of|the number for|the exact value of|what you get for|how much is|] {e}",
    "[Is|Was] {e} [more|less|bigger|smaller|larger] than [ten|zero|a hundred|one]?",
    "[Type|Enter|Put in|Key in] {e} [and tell me the result|into the calculator|and read the number|]",
    "[Enter|Use|Take|Try|Feed] {e} [and see|in the machine|as the input|]",
    "[Without|With|Despite] my notes, [what|how much] is {e}?",
    "[My|The|Our] [bill|order|invoice|note|line] [reads|has|shows|lists] {e}[. |, |: ][what|how much] [is it|is that|do I pay|does it make]?",
    "[As|In|With] [one|a single|a plain] number, {e}",
    "{e} [on the|with the|by] [calculator|machine]",
    "[Is it true that|Could it be that|How come] {e} is [so big|so small|a round number|under zero]?",
    "[Report|Print|Return|State|Display|Provide] [the value|the result|the number|the outcome|] [of|for] {e}",
    "[And|Then|Next|Also|Now] {e}[, what is that|, how much|, please|?|]",
    "[We|They|You] [have|pay|owe|count|get|see] {e}[. |, ][how much|what] [is it|is this|altogether|in all]?",
]
HELD_OUT_WRITTEN = [
    "Could you figure out {e}?",
    "What would {e} come out as?",
    "Crunch {e}",
    "Determine {e}",
    "I am curious what {e} equals",
    "Here is a sum: {e}",
    "Any idea how much {e} is?",
    "What total does {e} have?",
    "How do I resolve {e}?",
    "Put a number on {e}",
    "I keep getting {e} wrong, so what is right?",
    "To what does {e} amount?",
]
# In words: the phrasing on the left becomes the expression on the right.
SPOKEN = [
    ("{a} plus {b}", "{a} + {b}"),
    ("{a} minus {b}", "{a} - {b}"),
    ("{a} times {b}", "{a} * {b}"),
    ("{a} multiplied by {b}", "{a} * {b}"),
    ("{a} divided by {b}", "{a} / {b}"),
    ("{a} over {b}", "{a} / {b}"),
    ("the sum of {a} and {b}", "{a} + {b}"),
    ("the product of {a} and {b}", "{a} * {b}"),
    ("the square root of {a}", "sqrt({a})"),
    ("{a} squared", "{a} ** 2"),
    ("{a} cubed", "{a} ** 3"),
    ("{a} to the power of {c}", "{a} ** {c}"),
    ("{a} percent of {b}", "{a} / 100 * {b}"),
    ("{a}% of {b}", "{a} / 100 * {b}"),
    ("half of {a}", "{a} / 2"),
    ("twice {a}", "2 * {a}"),
    ("double {a}", "2 * {a}"),
    ("{a} x {b}", "{a} * {b}"),
    ("{a} plus {b} plus {c}", "{a} + {b} + {c}"),
    ("{a} times {b} plus {c}", "{a} * {b} + {c}"),
    ("the difference of {a} and {b}", "{a} - {b}"),
    ("the difference between {a} and {b}", "{a} - {b}"),
    ("sqrt({a})", "sqrt({a})"),
    ("{a}^{c}", "{a} ** {c}"),
    ("{a} mod {b}", "{a} % {b}"),
    ("{a} added to {b}", "{a} + {b}"),
    ("{a} and {b} [added|summed]", "{a} + {b}"),
    ("{a} less {b}", "{a} - {b}"),
    ("{a} without {b}", "{a} - {b}"),
    ("{a} multiplied with {b}", "{a} * {b}"),
    ("the ratio of {a} to {b}", "{a} / {b}"),
    ("the quotient of {a} and {b}", "{a} / {b}"),
    ("the total of {a} and {b}", "{a} + {b}"),
    ("a third of {a}", "{a} / 3"),
    ("a quarter of {a}", "{a} / 4"),
    ("three times {a}", "3 * {a}"),
    ("{a} minus {b} minus {c}", "{a} - {b} - {c}"),
    ("{a} times {b} times {c}", "{a} * {b} * {c}"),
]
DIRECT = [
    ("Add {a} and {b}", "{a} + {b}"),
    ("Add {a} to {b}", "{a} + {b}"),
    ("Multiply {a} by {b}", "{a} * {b}"),
    ("Multiply {a} and {b}", "{a} * {b}"),
    ("Divide {a} by {b}", "{a} / {b}"),
    ("Subtract {b} from {a}", "{a} - {b}"),
    ("Take {b} away from {a}", "{a} - {b}"),
    ("I have {a} {x} and buy {b} more. How many do I have?", "{a} + {b}"),
    ("I had {a} {x} and lost {b}. How many are left?", "{a} - {b}"),
    ("{a} boxes with {b} {x} each: how many {x}?", "{a} * {b}"),
    ("[Share|Split] {a} {x} among {b} people: how many each?", "{a} / {b}"),
    ("If one costs {a}, what do {b} {x} cost?", "{a} * {b}"),
    ("There are {a} {x} and {b} more arrive. How many {x} are there?", "{a} + {b}"),
    ("[Combine|Join|Unite|Count] {a} and {b}", "{a} + {b}"),
    ("[What|How much] [is|are|do I have if I take] {a} and {b} [together|in total|in all|combined]?", "{a} + {b}"),
    ("What [does one get|comes out|is the result] if [you|we|one] [add|adds] {a} [and|to] {b}?", "{a} + {b}"),
    ("What [does one get|comes out|is the result] when [you|we] [multiply|times] {a} [by|with|and] {b}?", "{a} * {b}"),
    ("What [does one get|comes out|is the result] when [you|we] divide {a} by {b}?", "{a} / {b}"),
    ("[Remove|Deduct|Drop|Withdraw] {b} from {a}", "{a} - {b}"),
    (
        "[What|How much|How many] [remains|stays|do I keep] [when|after] [you|I|we] [remove|take away|deduct|spend] {b} from {a}?",
        "{a} - {b}",
    ),
    ("Subtract {b} from {a} for me", "{a} - {b}"),
    ("Increase {a} by {b}", "{a} + {b}"),
    ("[Decrease|Reduce|Lower] {a} by {b}", "{a} - {b}"),
    ("Sum {a}, {b} and {c}", "{a} + {b} + {c}"),
    ("Sum of {a} and {b}", "{a} + {b}"),
    ("{b} [people|friends|children] share {a} {x}. How many does each get?", "{a} / {b}"),
    ("I buy {a} {x} for {b} each. What do I pay?", "{a} * {b}"),
    ("Start with {a} and [add|give it|put on] {b}", "{a} + {b}"),
    ("Start [with|at|from] {a} and [remove|drop|lose|take off] {b}", "{a} - {b}"),
    ("From {a}, [subtract|remove|deduct] {b}", "{a} - {b}"),
    ("To {a}, add {b}", "{a} + {b}"),
    ("By {b}, [multiply|scale] {a}", "{a} * {b}"),
    ("By {b}, divide {a}", "{a} / {b}"),
    (
        "{b} {x} [are gone|were stolen|got lost|fell out|were sold] from {a}. [How many|What] [stays|are there|do I have|remain]?",
        "{a} - {b}",
    ),
    ("[I|We|They] [found|got|won] {a} {x} and {b} {x}. [How many|What] in [all|total|sum]?", "{a} + {b}"),
    ("{a} {x} [a|per|each|every] day, for {b} days: how many {x}?", "{a} * {b}"),
    (
        "[Out of|Of|From] {a} {x} [I|we|you] [gave|sold|ate|used] {b}, [how many|what] [remain|stay|are there now]?",
        "{a} - {b}",
    ),
    ("[Scale|Blow up|Raise] {a} by a factor of {b}", "{a} * {b}"),
    ("[Cut|Break|Split] {a} [into|in] {b} [parts|equal parts|pieces|shares]", "{a} / {b}"),
    ("[Count|Reckon|Add|Take] {a} and {b} and {c} [together|in one|up|]", "{a} + {b} + {c}"),
    ("[Is there|What is] a [number|value] for {a} [taken|counted] {b} times?", "{a} * {b}"),
]
HELD_OUT_DIRECT = [
    ("Put {a} and {b} together", "{a} + {b}"),
    ("Sum up {a} and {b}", "{a} + {b}"),
    ("What do I get if I multiply {a} by {b}?", "{a} * {b}"),
    ("How much is left if I take {b} from {a}?", "{a} - {b}"),
]
ANSWERS = ["{e} = {r}", "{e} = {r}", "The result is {r}.", "That is {r}."]
_THINGS = ["apples", "books", "coins", "stamps", "eggs", "cards", "pens", "chairs", "tickets", "stones"]


def number(rng: random.Random) -> str:
    """An operand."""
    kind = rng.random()
    if kind < 0.85:
        return digits(rng, rng.choice((1, 1, 2, 2, 2, 3, 3, 4, 4, 5, 6)))
    if kind < 0.95:
        return f"{digits(rng, rng.randint(1, 3))}.{digits(rng, rng.randint(1, 2))}"
    return "-" + digits(rng, rng.randint(1, 2))


def written(rng: random.Random) -> tuple[str, str]:
    """An expression as a user writes it and as the call has it."""
    ops = "+-*/" if rng.random() < 0.93 else ["//", "%", "**"]
    op = [rng.choice(ops) for _ in range(3)]
    a, b, c, d = (number(rng) for _ in range(4))
    gap = " " if rng.random() < 0.8 else ""
    shape = rng.random()
    if shape < 0.55:
        parts = [a, op[0], b]
    elif shape < 0.68:
        parts = [a, op[0], b, op[1], c]
    elif shape < 0.80:
        parts = [f"({a}{gap}{op[0]}{gap}{b})", op[1], c]
    elif shape < 0.88:
        parts = [a, op[0], f"({b}{gap}{op[1]}{gap}{c})"]
    elif shape < 0.93:
        parts = [f"({a}{gap}{op[0]}{gap}{b})", op[1], f"({c}{gap}{op[2]}{gap}{d})"]
    elif shape < 0.96:
        parts = [a, op[0], b, op[1], c, op[2], d]
    else:
        parts = [f"{rng.choice(('sqrt', 'abs', 'round', 'ln'))}({a})", op[0], b]
    text = gap.join(parts)
    if op[0] == "*" and len(parts) == 3 and shape < 0.55 and rng.random() < 0.1:
        return f"{a} × {b}", f"{a} * {b}"
    return text, text


def exchange(rng: random.Random, held_out_phrasing: bool, held_out_values: bool) -> Exchange:
    """A question, the call, the result and the answer."""
    slots = {"a": number(rng), "b": number(rng), "c": digits(rng, 1), "x": rng.choice(_THINGS)}
    # Numbers are new every time. Trained on are more sums in words than asked for: those are the harder ones.
    kind = rng.random() * (1.0 if held_out_phrasing or held_out_values else 1.2)
    if kind < 0.7:
        asked, expression = written(rng)
        user = question(rng, WRITTEN, HELD_OUT_WRITTEN, {"e": asked}, held_out_phrasing)
    elif kind < 0.85 or kind >= 1.1:
        asked, expression = (expand(rng, text, slots) for text in rng.choice(SPOKEN))
        user = question(rng, WRITTEN, HELD_OUT_WRITTEN, {"e": asked}, held_out_phrasing)
    else:
        phrasing, shape = rng.choice(HELD_OUT_DIRECT if held_out_phrasing else DIRECT)
        user, expression = question(rng, [phrasing], [phrasing], slots, held_out_phrasing), expand(rng, shape, slots)
    result = number(rng) if rng.random() < 0.7 else f"{digits(rng, rng.randint(1, 4))}.{digits(rng, rng.randint(1, 8))}"
    content, answer = result, expand(rng, rng.choice(ANSWERS), {"e": expression, "r": result})
    fate = rng.random()
    if fate < 0.05:
        content = result = rng.choice(
            ["division by zero", f"not an arithmetic expression: {expression!r}", "exponents go up to 1000"]
        )
        answer = f"That did not work: {result}."
    elif fate < 0.08:
        content = f'{{"result": {result}}}'
    said = [
        Said("user", user),
        Said("assistant", "", ("calculator", {"expression": expression})),
        Said("tool", content),
    ]
    return Exchange("calculator", [*said, Said("assistant", answer)], expect=result, needs="calculator")
