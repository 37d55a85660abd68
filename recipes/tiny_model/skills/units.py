"""Conversions: value and units of the question go into the call, the result into the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tiny_model import frames
from tiny_model.conversation import Exchange, Said
from tiny_model.grammar import expand, question
from tiny_model.words import digits

if TYPE_CHECKING:
    import random

# Unit names of one kind can stand in one question.
KINDS = [
    kind.split(",")
    for kind in (
        "meters,kilometers,centimeters,millimeters,miles,yards,feet,inches,nautical miles,metres,kilometres,m,km,cm,mm,mi,ft,in,yd",
        "kilograms,grams,milligrams,tonnes,pounds,ounces,stones,kg,g,mg,lb,lbs,oz",
        "liters,milliliters,gallons,quarts,pints,cups,fluid ounces,tablespoons,teaspoons,litres,cubic meters,l,ml,gal,tbsp,tsp",
        "seconds,milliseconds,minutes,hours,days,weeks,min,h,ms",
        "square meters,square kilometers,hectares,acres,square feet,m2,ft2",
        "km/h,mph,knots,m/s,kmh",
        "bytes,kilobytes,megabytes,gigabytes,KB,MB,GB,MiB,GiB,kibibytes,mebibytes",
        "joules,calories,kilocalories,kilojoules,kWh,watt hours,kJ,kcal",
        "Celsius,Fahrenheit,kelvin,celsius,fahrenheit,C,F,Kelvin,°C,°F",
    )
]
CALLS = [
    "Convert {v} {f} to {t}",
    "Convert {v} {f} to {t}",
    "Convert {v} {f} into {t}",
    "[What|How much] is {v} {f} in {t}?",
    "How many {t} is {v} {f}?",
    "How many {t} are in {v} {f}?",
    "How many {t} are in {v} {f}?",
    "How many {t} [is|are|make] {v} {f}?",
    "How many {t} are there in {v} {f}?",
    "How many {t} do {v} {f} make?",
    "{v} {f} to {t}",
    "{v} {f} in {t}",
    "{v} {f} in {t}?",
    "Change {v} {f} [to|into] {t}",
    "[Turn|Express|Write|Give|Say] {v} {f} [in|as] {t}",
    "What are {v} {f} in {t}?",
    "How [much|many] {t} [do I get for|equal] {v} {f}?",
    "I have {v} {f}. How many {t} is that?",
    "I have {v} {f}. What is that in {t}?",
    "[Can|Could] you convert {v} {f} [to|into] {t}?",
    "[Tell|Show] me [how many|how much] {t} {v} {f} [is|are]",
    "[Tell|Show] me {v} {f} in {t}",
    "I need {v} {f} in {t}",
    "Work out {v} {f} in {t}",
    "What do {v} {f} come to in {t}?",
    "Calculate {v} {f} in {t}",
    "Do you know [how many|how much] {t} {v} {f} [is|are]?",
    "{v} {f} = ? {t}",
    "What is {v} {f} converted to {t}?",
    "What would {v} {f} be in {t}?",
    "It is {v} {f}. What is that in {t}?",
    "In {t}, [how much|what] is {v} {f}?",
    "{v} {f} is how many {t}?",
    "{v} {f} are how many {t}?",
    "[Find|Get] {v} {f} in {t}",
    "Use the converter: {v} {f} to {t}",
    "From {v} {f} to {t}",
    "How many {t} would {v} {f} be?",
    "How many {t} [equal|in] {v} {f}?",
    "My recipe says {v} {f}, I want {t}",
    "The sign says {v} {f}, what is that in {t}?",
    "Could you [tell me|work out|find] {v} {f} in {t}?",
    "What [number|amount] of {t} is {v} {f}?",
    "Convert to {t}: {v} {f}",
    "Convert from {f} to {t}: {v}",
    "Please change {v} {f} to {t}",
    "{v} {f} equals how many {t}?",
    "[Can|Could|Will|Would] you [please|kindly|quickly|] [convert|change|turn|express|give|calculate|work out|tell me] {v} {f} [to|into|in|as] {t} [for me|]?",
    "[I|We] [want|need|would like|have|wish|must] to [convert|change|turn|know|express|see|have|get] {v} {f} [to|into|in|as] {t}",
    "[How many|How much|What number of|What amount of] {t} [is|are|make|makes|equals|gives|have|has|correspond to|go into|fit in] {v} {f}?",
    "[What|How much] [is|are|was|were|would be|will be] {v} {f} [in|as|in terms of|when given in|counted in|measured in|if I want] {t}?",
    "[If|When|Suppose|Say] [it is|there are|you have|we have|one has|the length is|something is] {v} {f}, [what|how much|how many] [is that|is it|are they|would that be] in {t}?",
    "{v} {f} [is|are|equals|makes|gives|comes to|corresponds to] [what|how much|which number|how many] [in|of] {t}?",
    "{v} {f} [->|=>|=|as|into|versus|for] {t}",
    "{v} {f}, [in|as|to|into] {t}[, please|?|]",
    "[My|The|This|Our] [map|label|box|book|list|scale|screen|bottle|ruler|paper] [says|shows|reads|gives|has] {v} {f}[. |, |; ][what|how much|how many] [is that|would that be|does that make|is it] in {t}?",
    "[I|We|She|He|They] [walked|weighed|bought|used|saw|found|poured|got|read|carry|own] {v} {f}[. |, |; ][what|how much|how many] [is that|would that be|is it|are those] in {t}?",
    "[I|We|She|He|They] [walked|weighed|bought|used|saw|found|poured|got|read|carry|own] {v} {f}[. |, |; ]how many {t} [is that|are those|is it|would that be]?",
    "[Give|Tell|Show|Send|Say|Write|Name] [me|us] [the|] [number|amount|count|value|measure] [of|in] {t} [for|in|of|from|that is] {v} {f}",
    "[The|What is the] [value|amount|size|measure|number] of {v} {f} [in|as|when in] {t}",
    "[Unit|Units|Conversion|Converter|Measure|Convert|Change]: {v} {f} [to|in|into|as|->] {t}",
    "[Into|To|In|As] {t}, [please|] [convert|change|turn|write] {v} {f}",
    "[With|From|Given|Having|Starting from] {v} {f}, [how many|how much|what number of] {t} [do I get|is it|are there|would there be]?",
    "I [wonder|ask myself|am wondering|would like to know|must know|have to find out] [how many|how much] {t} [there are in|go into|make up|equal|are] {v} {f}",
    "[What|How much] [do|does|would|will] {v} {f} [make|come to|measure|be|amount to|become|give] in {t}?",
    "[Rewrite|Recalculate|Switch|Swap|Move] {v} {f} [to|into|in] {t}",
    "[Is|Are] {v} {f} [a lot|much|little|long|heavy|big] in {t}?",
    "How many {t} [does|would|will|could|can] {v} {f} [equal|give|make up|become|turn into|yield]?",
    "[What|How much] [does|would|will] {v} {f} [equal|measure|hold|come to] in {t}?",
    "{v} {f}: [how many|how much|the same in|what in] {t}?",
    "{t} [for|from|out of|equal to|in] {v} {f}[?| please|]",
    "[How many|How much] {t} [can I|do you|would one|does one|could we|should I] [get|make|fill|count|need|have] [from|out of|with|for] {v} {f}?",
    "[I|We|They|You] [own|sold|lifted|drove|ran|drank|ate|waited|stored|downloaded|ordered] {v} {f}[. |, |; |: ][how many|how much] {t} [is it|was it|were they|would it be|is this|are these|will it be|could it be]?",
    "[Compute|Calculate|Find|Estimate|Report|Print|Return|State|Display|Provide] [the|] [number of|amount of|] {t} [in|for|that make|that equal] {v} {f}",
    "[What|Which] [value|figure|number] [in|of] {t} [matches|equals|corresponds to|belongs to|goes with|stands for] {v} {f}?",
    "[Assume|Imagine|Take|Given|Let us say|There is|He has] {v} {f}[. |, |; |: ][how many|how much] {t} [is that|is it|are there|would there be|do we get|makes that]?",
    "In {t}[, please|][, |: ]{v} {f}",
    "[Is|Are] {v} {f} [more|less|longer|heavier|bigger] than [ten|a hundred|one|two] {t}?",
    "[The answer|The result|The amount|The number] [should|must|has to] be in {t}[: |. |, ][it is|we have|I have|] {v} {f}",
    "[Show|Print|Say|Display] {v} {f} [with|by means of|in units of|in the unit] {t}",
    "{v} {f} [by the|on the|in] {t} [scale|unit|measure][?|, please|]",
    "[A|One] [friend|form|teacher|colleague] [thinks|counts|wants it|asks] in {t}[. |, ][I have|it is|we have|mine is] {v} {f}",
    "[Go|Step|Get] from {f} to {t} [with|for|at] {v}",
]
HELD_OUT_CALLS = [
    "Transform {v} {f} into {t}",
    "What is the equivalent of {v} {f} in {t}?",
    "If I have {v} {f}, how many {t} do I have?",
    "Put {v} {f} into {t}",
    "Could I get {v} {f} expressed in {t}?",
    "I measured {v} {f}; how many {t} does that make?",
    "{v} {f} would be how much in {t}?",
    "Translate {v} {f} to {t}",
    "{v} {f} is the same as what in {t}?",
    "Could you restate {v} {f} using {t}?",
    "There were {v} {f}, which is how many {t}?",
]
ANSWERS = ["{v} {f} is {r}.", "{v} {f} is {r}.", "That is {r}.", "{v} {f} makes {r}."]
_SMALL = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


def exchange(rng: random.Random, held_out_phrasing: bool, held_out_values: bool) -> Exchange:
    """A question, the call, the result and the answer."""
    # Numbers are new every time, unit names are those of the tool.
    kind = rng.choice(KINDS)
    source, target = rng.sample(kind, 2)
    value: Any
    shape = rng.random()
    if shape < 0.7:
        shown = digits(rng, rng.choice((1, 1, 1, 2, 2, 3, 3, 4, 5)))
        value = int(shown)
    elif shape < 0.95:
        shown = (
            f"{digits(rng, rng.randint(1, 3))}.{rng.randint(0, 9)}{rng.randint(1, 9)}"
            if rng.random() < 0.4
            else f"{digits(rng, rng.randint(1, 2))}.{rng.randint(1, 9)}"
        )
        value = float(shown)
    else:
        value = rng.randint(1, 12)
        shown = _SMALL[value - 1]
    if kind is KINDS[-1] and isinstance(value, int) and rng.random() < 0.2:
        value, shown = -value, f"-{value}"
    slots = {"v": shown, "f": source, "t": target}
    asked = dict(slots)
    if kind is KINDS[-1] and rng.random() < 0.4:
        asked["f"] = "degrees " + source
    if held_out_phrasing or held_out_values or rng.random() >= frames.LOOSE_SHARE:
        user = question(rng, CALLS, HELD_OUT_CALLS, asked, held_out_phrasing, free=not held_out_values)
    else:
        # Which is the source is known by the number before it.
        user = frames.loose(rng, rng.sample([f"{asked['v']} {asked['f']}", asked["t"]], 2))
    amount = digits(rng, rng.randint(1, 4)) + (
        "." + digits(rng, rng.choice((1, 2, 3, 5, 8, 11))) if rng.random() < 0.7 else ""
    )
    result = content = f"{amount} {target}"
    answer = expand(rng, rng.choice(ANSWERS), {**slots, "r": result})
    fate = rng.random()
    if fate < 0.05:
        content = result = rng.choice(
            [f"the unit {source!r} is not known", f"{source} and {target} do not measure the same kind of thing"]
        )
        answer = f"That did not work: {result}."
    elif fate < 0.10:
        content = result = amount
        answer = expand(rng, "{v} {f} is {r} {t}.", {**slots, "r": amount})
    call = ("convert_units", {"value": value, "from_unit": source, "to_unit": target})
    said = [Said("user", user), Said("assistant", "", call), Said("tool", content), Said("assistant", answer)]
    return Exchange("convert_units", said, expect=result, needs="convert_units")
