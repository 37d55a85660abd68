"""Time: the place of the question becomes a time zone, the result goes into the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tiny_model.conversation import Exchange, Said
from tiny_model.grammar import expand, question
from tiny_model.words import WEEKDAYS

if TYPE_CHECKING:
    import random

ZONES = dict(
    pair.rsplit("=", 1)
    for pair in """Tokyo=Asia/Tokyo;Japan=Asia/Tokyo;Osaka=Asia/Tokyo;London=Europe/London;England=Europe/London;Paris=Europe/Paris
;France=Europe/Paris;Berlin=Europe/Berlin;Germany=Europe/Berlin;Munich=Europe/Berlin;Hamburg=Europe/Berlin;Madrid=Europe/Madrid
;Spain=Europe/Madrid;Rome=Europe/Rome;Italy=Europe/Rome;Milan=Europe/Rome;Vienna=Europe/Vienna;Austria=Europe/Vienna
;Zurich=Europe/Zurich;Switzerland=Europe/Zurich;Amsterdam=Europe/Amsterdam;Brussels=Europe/Brussels;Lisbon=Europe/Lisbon
;Portugal=Europe/Lisbon;Dublin=Europe/Dublin;Ireland=Europe/Dublin;Oslo=Europe/Oslo;Stockholm=Europe/Stockholm
;Sweden=Europe/Stockholm;Copenhagen=Europe/Copenhagen;Helsinki=Europe/Helsinki;Warsaw=Europe/Warsaw;Poland=Europe/Warsaw
;Prague=Europe/Prague;Budapest=Europe/Budapest;Athens=Europe/Athens;Greece=Europe/Athens;Istanbul=Europe/Istanbul
;Moscow=Europe/Moscow;Kyiv=Europe/Kyiv;New York=America/New_York;Boston=America/New_York;Miami=America/New_York
;Chicago=America/Chicago;Denver=America/Denver;Los Angeles=America/Los_Angeles;San Francisco=America/Los_Angeles
;Seattle=America/Los_Angeles;California=America/Los_Angeles;Toronto=America/Toronto;Vancouver=America/Vancouver
;Mexico City=America/Mexico_City;Bogota=America/Bogota;Lima=America/Lima;Sao Paulo=America/Sao_Paulo;Brazil=America/Sao_Paulo
;Buenos Aires=America/Argentina/Buenos_Aires;Cairo=Africa/Cairo;Egypt=Africa/Cairo;Lagos=Africa/Lagos;Nairobi=Africa/Nairobi
;Johannesburg=Africa/Johannesburg;Dubai=Asia/Dubai;Mumbai=Asia/Kolkata;Delhi=Asia/Kolkata;India=Asia/Kolkata
;Bangkok=Asia/Bangkok;Singapore=Asia/Singapore;Hong Kong=Asia/Hong_Kong;Beijing=Asia/Shanghai;Shanghai=Asia/Shanghai
;China=Asia/Shanghai;Seoul=Asia/Seoul;Korea=Asia/Seoul;Jakarta=Asia/Jakarta;Manila=Asia/Manila;Sydney=Australia/Sydney
;Melbourne=Australia/Melbourne;Perth=Australia/Perth;Auckland=Pacific/Auckland;New Zealand=Pacific/Auckland
;Honolulu=Pacific/Honolulu;Hawaii=Pacific/Honolulu;Reykjavik=Atlantic/Reykjavik;Iceland=Atlantic/Reykjavik""".replace(
        "\n", ""
    ).split(";")
)
PLACED = [
    "What time is it in {p}?",
    "What time is it in {p}?",
    "What time is it now in {p}?",
    "What is the [time|current time|local time] in {p}?",
    "What's the time in {p}?",
    "[Tell|Give] me the time in {p}",
    "Time in {p}",
    "Time in {p}?",
    "[Current|Local] time in {p}",
    "What [day|date] is it in {p}?",
    "What is the date in {p}?",
    "How late is it in {p}?",
    "Do you know [the time|what time it is] in {p}?",
    "[Can|Could] you [tell me|check|look up] [the time|what time it is] in {p}?",
    "What does the clock say in {p}?",
    "Which day is it in {p}?",
    "I need [the time|the current time|the date] in {p}",
    "Look up the time in {p}",
    "Check the [time|clock|date] in {p}",
    "Is it late in {p}?",
    "[Show|Get] me the [current time|local time|clock|date] [in|for] {p}",
    "My friend lives in {p}. What time is it there?",
    "I am [calling|writing to] someone in {p}. What time is it there?",
    "In {p}, what time is it?",
    "And in {p}?",
    "What about {p}?",
    "[Tell|Show] me what time it is in {p}",
    "Is it morning in {p}?",
    "What day of the week is it in {p}?",
    "What is today's date in {p}?",
    "Use the clock for {p}",
    "I [travel|am flying] to {p}. What is the time there?",
    "Let me know the time in {p}",
    "[What|Which] [time|date|day|weekday|hour of the day|local time|current time|exact time|day of the week|clock time|time of day] [is it|do they have|do people have|does one have|have they got|is it now|is it right now|is it at present|will it be now] [in|over in|for|at|down in|up in|around|near|out in] {p}?",
    "[What|Which] is the [time|date|day|weekday|hour of the day|local time|current time|exact time|day of the week|clock time|time of day] [in|over in|for|at|down in|up in|around|near|out in] {p} [now|right now|today|at present|just now|]?",
    "[Tell|Give|Show|Send|Read|Say] [me|us] [the|] [time|date|day|weekday|hour of the day|local time|current time|exact time|day of the week|clock time|time of day] [in|over in|for|at|down in|up in|around|near|out in] {p}",
    "[I|We] [want|need|would like|have|wish|hope|must have|am looking for|ask for] the [time|date|day|weekday|hour of the day|local time|current time|exact time|day of the week|clock time|time of day] [in|over in|for|at|down in|up in|around|near|out in] {p}",
    "[I|We] [want|need|would like|have|wish|hope] to [know|see|check|learn|have|get|find out] the [time|date|day|weekday|hour of the day|local time|current time|exact time|day of the week|clock time|time of day] [in|over in|for|at|down in|up in|around|near|out in] {p}",
    "[Can|Could|May|Will|Would] [you|I|we] [please|kindly|] [tell me|give me|get|have|see|check|look up|find|read|know] the [time|date|day|weekday|hour of the day|local time|current time|exact time|day of the week|clock time|time of day] [in|over in|at|down in|up in|around|near|out in] {p}?",
    "[What|How] [is|about] the [time|date|day|weekday|hour of the day|local time|current time|exact time|day of the week|clock time|time of day] [in|over in|for|at|down in|up in|around|near|out in] {p}?",
    "[Do|Did|Can|Would] you [have|know|see|tell|get] the [time|date|day|weekday|hour of the day|local time|current time|exact time|day of the week|clock time|time of day] [in|over in|for|at|down in|up in|around|near|out in] {p}?",
    "[time|date|day|weekday|hour of the day|local time|current time|exact time|day of the week|clock time|time of day] [in|over in|for|at|down in|up in|around|near|out in] {p} [please|now|right now|today|?|]",
    "{p}: [what|which] [time|date|day|hour] [is it|do they have|have they got] [there|now|]?",
    "{p} [time|date|clock|local time|right now|today][?|]",
    "[In|At|Over in|For] {p}, [what|which] [time|day|date|weekday] [is it|do they have|have we|do people see]?",
    "[In|At|Over in|For] {p}, [is it|would it be] [late|early|night|morning|noon|evening|Monday|Sunday|weekend|already tomorrow]?",
    "[Is it|Would it be|Could it be] [late|early|already late|night|day|noon|evening|midnight|afternoon|Monday|Friday|weekend|dark|already tomorrow|still yesterday] [in|over in|around] {p} [now|yet|right now|at present|]?",
    "How [early|late|far in the day] [is it|are they] [in|down in|out in] {p} [now|just now|right now|]?",
    "[What|Which] [hours|minutes|numbers] [does|do] [the|a] [clock|watch|clocks|watches] [in|of|over in] {p} [show|say|tell|read]?",
    "[Read|Check|See|Ask|Look at|Consult] the [clock|watch|wall clock|station clock] [in|of|for|over in] {p}",
    "[My|Our|The] [aunt|friend|boss|office|team|sister|plane|train|hotel|meeting|call] [lives in|is in|is at|waits in|lands in|sits in|is based in|starts in] {p}[. |, ][what|which] [time|hour|day|date] [is it|do they have] [there|over there|there now]?",
    "[People|Friends|Colleagues|They|Those] [living|] in {p}, [what|which] [hour|day|date] [do they have|is it for them|is it there]?",
    "[When|Before|If] I [call|ring|phone|write to] {p} now, what [time|hour|day] [is it|will it be|do they have] there?",
    "[Now|Today|Right now|At this moment][,|] what [time|date|day|hour] [do we have|is it] in {p}?",
    "[Any idea|A guess|Tell me|I ask|I wonder|I am curious|Say] [what|which] [time|day|date|hour of the day] [it is|they have|people have|they see] [in|over in] {p}",
    "[Are they|Are people] [asleep|awake|still up|at lunch|at work] in {p} [now|at this time|at this hour]?",
]
HELD_OUT_PLACED = [
    "What hour is it in {p}?",
    "Could I have the time for {p}?",
    "How late is it over in {p} at the moment?",
    "Got the time in {p}?",
    "In {p}, what does the clock show?",
    "I would love to know the time in {p}",
    "What is the hour in {p}?",
    "People in {p}: what time do they have?",
    "How far along is the day in {p}?",
    "If I woke up in {p}, what time would it be?",
    "I must not call {p} too late, so what time is it there?",
]
HERE = [
    "What time is it?",
    "What time is it now?",
    "What is the time?",
    "What's the time?",
    "What is the [date|current date|date today]?",
    "What day is it [today|]?",
    "[Tell|Give] me the [time|current time|date]",
    "Do you know [the time|what time it is]?",
    "Time?",
    "What is the current [time|date]?",
    "[Can|Could] you tell me the time?",
    "How late is it?",
    "Which day is today?",
    "Check the clock",
    "Show me the [clock|time|date]",
    "What is today's date?",
    "I need the [time|date]",
    "What date is it?",
    "What day of the week is it?",
    "[What|Which] [time|date|day|weekday|hour of the day|local time|current time|exact time|day of the week|clock time|time of day] [is it|have we|have you|is it now|is it here|is it right now]?",
    "[Tell|Give|Show|Send|Read|Say] [me|us] [the|] [time|date|day|weekday|hour of the day|local time|current time|exact time|day of the week|clock time|time of day] [please|now|here|right now|]",
    "[I|We] [want|need|would like|ask for|must have|am looking for] [to know|to see|to have|] the [time|date|day|weekday|hour of the day|local time|current time|exact time|day of the week|clock time|time of day]",
    "[Can|Could|May|Will|Would] [you|I] [please|kindly|] [tell me|give me|get|have|see|look up|find|read] the [time|date|day|weekday|hour of the day|local time|current time|exact time|day of the week|clock time|time of day] [here|now|]?",
    "[time|date|day|weekday|hour of the day|local time|current time|exact time|day of the week|clock time|time of day]",
    "[Current|Present|Exact|Local] [time|date|day|weekday|hour of the day|local time|current time|exact time|day of the week|clock time|time of day]",
    "[Is it|Could it be] [late|early|already late|noon|midnight|Monday|Friday|the weekend|time for bed|lunch time] [now|yet|already]?",
    "How [early|late] is it [now|already|here|]?",
    "[Read|See|Ask|Look at|Consult|Use] the [clock|watch|wall clock]",
    "What [does|do] [the|your|my] [clock|watch] [show|say|read|tell] [now|]?",
    "[Do|Can|Could|Would] you [know|see|tell|say] [the|which|what] [day|date|hour of the day] [it is|we have|this is]?",
    "[What|Which] [day|weekday|date|month|year] [is|have we] [it|today|now]?",
    "[Any idea|I wonder|I am curious|I forgot|Tell me|Say|Please say] [what|which] [time|day|date|hour] [it is|we have|this is] [now|]",
]
HELD_OUT_HERE = ["Got the time?", "What hour is it?", "Which date do we have?", "Could you check what time we have?"]
ANSWERS = ["It is {r} in {p}.", "It is {r} in {p}.", "In {p} it is {r}.", "The time in {p} is {r}."]
ANSWERS_HERE = ["It is {r}.", "The time is {r}."]
_ABBREVIATIONS = [
    "JST",
    "CET",
    "CEST",
    "GMT",
    "BST",
    "UTC",
    "EST",
    "EDT",
    "PST",
    "PDT",
    "CST",
    "MSK",
    "IST",
    "SGT",
    "AEST",
    "AEDT",
    "NZDT",
    "+03",
    "-03",
    "+07",
]


def result_text(rng: random.Random) -> str:
    """A time as the clock tool writes it; now and then in another form."""
    day = f"{rng.randint(2024, 2032)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}"
    time = f"{rng.randint(0, 23):02}:{rng.randint(0, 59):02}"
    kind = rng.random()
    if kind < 0.75:
        offset = f"{rng.choice('+-')}{rng.randint(0, 12):02}:{rng.choice(('00', '00', '00', '30'))}"
        return (
            f"{day} {time}:{rng.randint(0, 59):02} {rng.choice(_ABBREVIATIONS)} (UTC{offset}), {rng.choice(WEEKDAYS)}"
        )
    if kind < 0.9:
        return f"{day}T{time}:{rng.randint(0, 59):02}{rng.choice(('Z', '+09:00', '+01:00', '-05:00'))}"
    return f"{time}"


def exchange(rng: random.Random, held_out_phrasing: bool, held_out_values: bool) -> Exchange:
    """A question, the call, the result and the answer."""
    del held_out_values  # a small model knows the places it was told of and no other
    result = result_text(rng)
    kind = rng.random()
    if kind < 0.72:
        place, zone = rng.choice(list(ZONES.items()))
    elif kind < 0.80:
        place = zone = rng.choice(list(ZONES.values()))
    elif kind < 0.83:
        place = zone = "UTC"
    else:
        place, zone = "", "UTC"
    if place:
        shown = place.lower() if place != zone and rng.random() < 0.05 else place
        user = question(rng, PLACED, HELD_OUT_PLACED, {"p": shown}, held_out_phrasing)
        answer = expand(rng, rng.choice(ANSWERS), {"r": result, "p": place})
    else:
        user = question(rng, HERE, HELD_OUT_HERE, {}, held_out_phrasing)
        answer = expand(rng, rng.choice(ANSWERS_HERE), {"r": result})
    content = result
    if rng.random() < 0.05:
        content = result = f"no time zone is named {zone!r}; use a name such as Europe/Berlin"
        answer = f"That did not work: {result}."
    said = [Said("user", user), Said("assistant", "", ("clock", {"timezone": zone})), Said("tool", content)]
    return Exchange("clock", [*said, Said("assistant", answer)], expect=result, needs="clock")
