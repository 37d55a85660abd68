"""Facts that the user told, or that a memory line of the system turn holds, and the honest answer where there is none."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tiny_model import frames, words
from tiny_model.conversation import Exchange, Said
from tiny_model.grammar import KEEP, expand, tidy

if TYPE_CHECKING:
    import random
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fact: how it is told, asked for and answered."""

    label: str
    value: Callable[[random.Random, bool], str]
    told: list[str]
    asked: list[str]
    answer: str
    told_held_out: list[str]
    asked_held_out: list[str]


def _list(known: list[str], unknown: list[str]) -> Callable[[random.Random, bool], str]:
    return lambda rng, held_out: words.pick(rng, known, unknown, held_out)


def _full_name(rng: random.Random, held_out: bool) -> str:
    first = words.name(rng, held_out)
    return f"{first} {rng.choice(words.SURNAMES)}" if rng.random() < 0.15 else first


KINDS = [
    Kind(
        "name",
        _full_name,
        [
            "My name is {v}",
            "My name is {v}",
            "My name is {v}",
            "I am {v}",
            "I'm {v}",
            "Call me {v}",
            "[You can|Please] call me {v}",
            "I am called {v}",
            "[Hi|Hello|Hey], I am {v}",
            "[Hi|Hello|Hey], my name is {v}",
            "[Hi|Hello], {v} here",
            "This is {v}",
            "My name's {v}",
            "People call me {v}",
            "The name is {v}",
            "They call me {v}",
            "Remember my name: {v}",
            "Remember that my name is {v}",
            "Let me introduce myself: I am {v}",
            "[Folks|Friends|Others|Most people|My friends|All] [call|named|know] me {v}",
            "[I was|I have been] [named|called] {v}",
            "[You speak with|You chat with|The user is|The one who writes is|It is] {v}",
            "{v} is [my name|what I am called|how they call me|who I am]",
            "I [introduce myself|present myself|sign] as {v}",
            "[Say hello to|Greet|Meet] {v}[, that is me|, it is me|]",
        ],
        [
            "What is my name?",
            "What is my name?",
            "What's my name?",
            "Who am I?",
            "Do you [know|remember] my name?",
            "What am I called?",
            "Tell me my name",
            "[Can|Could] you tell me my name?",
            "What did I say my name was?",
            "Say my name",
            "How am I called?",
            "What name did I give you?",
            "What do you call me?",
            "Please repeat my name",
            "Do you know who I am?",
            "Remind me of my name",
            "[What|Which] [name|first name] [do I have|is mine|did I say|did I mention|belongs to me]?",
            "[Who|What] am I [again|, by name|to you|]?",
            "Who [is|was] [it that writes|the user|speaking|writing to you|chatting with you|asking you|using you|in front of you|on this side]?",
            "How [do|should|would|will] you [call|name|address] me?",
            "[Are you sure|Can you say|Could you say|Will you say|Tell me|Guess|Say] who I am",
            "How [do they|do people|does everyone] call me?",
            "With [whom|what person|what user] [are you|do you] [speak|chat|speaking|chatting]?",
        ],
        "Your name is {v}.",
        ["I go by {v}", "Everyone knows me as {v}", "You are talking to {v}"],
        [
            "Do you still have my name?",
            "Which name did I tell you?",
            "By what name do I go?",
            "What am I known as?",
            "Who is talking to you?",
        ],
    ),
    Kind(
        "city",
        _list(words.CITIES, words.HELD_OUT_CITIES),
        [
            "I live in {v}",
            "I live in {v}",
            "My home is in {v}",
            "I am living in {v}",
            "My city is {v}",
            "My home town is {v}",
            "I moved to {v}",
            "I have a flat in {v}",
            "My house is in {v}",
            "[These days|Now] I live in {v}",
            "Home is {v}",
            "Remember that I live in {v}",
            "[I am|I come|We are] from {v}",
            "[My|Our] [flat|house|family|place|apartment|room|bed|street] is in {v}",
            "[I stay|We stay|I sleep|I have a house|I rent a flat|I found a home|I grew roots|We live|My family lives] in {v}",
            "{v} is [where I live|my city|my home|my home town|the city I live in]",
            "[I was moved|I went|I have moved|We moved] to {v} [and live there|for good|]",
        ],
        [
            "Where do I live?",
            "Where do I live?",
            "In which city do I live?",
            "Which city do I live in?",
            "What city do I live in?",
            "Where is my home?",
            "Do you [know|remember] where I live?",
            "Tell me where I live",
            "What is my city?",
            "Where did I say I live?",
            "Where is my house?",
            "[Where|In what place|In which town|At which place] [do I|did I say I|did I tell you I] [live|stay|sleep|have a house|have my home]?",
            "[What|Which] [city|town|place] [is my home|am I from|am I in|did I move to|do I come from|is where I live]?",
            "Where [am I from|is my flat|is my bed|do I come from|did I move to|do I have my house|is the place I live]?",
            "[Can|Could|Would] you [tell me|say|name] [where I live|the city I live in|my city|my home town]?",
            "[I forgot|Remember|I wonder|Tell me|Say|Guess] [where I live|where I am from|what city I live in|my home town]",
        ],
        "You live in {v}.",
        ["I reside in {v}", "I settled down in {v}"],
        [
            "What town am I living in?",
            "Which place do I call home?",
            "Where am I based?",
            "What is my place of residence?",
        ],
    ),
    Kind(
        "job",
        _list(words.JOBS, words.HELD_OUT_JOBS),
        [
            "I am a {v}",
            "I work as a {v}",
            "I work as a {v}",
            "My job is {v}",
            "I am a {v} by trade",
            "I earn my money as a {v}",
            "By day I am a {v}",
            "I became a {v}",
            "I'm a {v}",
            "My profession is {v}",
            "[I am|I was] [trained|hired|paid|known|busy|working] as a {v}",
            "My [work|trade|profession|career|day job|occupation] is [being a|that of a|] {v}",
            "[At work|For work|For money|During the day|In my job] I am a {v}",
            "They [hired|pay] me as a {v}",
            "As a {v} I [work|earn my money|am busy all day]",
            "{v} is my [job|trade|profession|work|career]",
        ],
        [
            "What is my job?",
            "What do I do for work?",
            "What is my job?",
            "What do I work as?",
            "Do you [know|remember] my job?",
            "Which job do I have?",
            "What is my profession?",
            "How do I earn my money?",
            "Tell me my job",
            "What did I say my job was?",
            "[What|Which] [job|profession|occupation|career|trade|work] [do I have|is mine|am I in|do I do|did I mention|did I say I have]?",
            "[What|How] do I [do all day|do for money|earn|do at work|get my money]?",
            "What [am I paid for|was I hired as|am I at work|am I by profession|do they pay me for]?",
            "[Can|Could|Would] you [tell me|say|name] [my job|what I do|what I work as|my profession]?",
            "[I forgot|Remember|I wonder|Tell me|Say|Guess] [what my job is|what I do for work|what I work as|my profession]",
        ],
        "You are a {v}.",
        ["I make my living as a {v}", "I am employed as a {v}"],
        ["What kind of work do I do?", "What am I by trade?", "How do I make my living?", "What line of work am I in?"],
    ),
    Kind(
        "age",
        lambda rng, _: str(rng.randint(18, 99)),
        [
            "I am {v} years old",
            "I am {v} years old",
            "My age is {v}",
            "I just turned {v}",
            "I am {v}",
            "I'm {v} years old",
            "[I have|I have reached|I reached|I got to|I am at|I turned|Today I turn] [the age of|age|] {v}",
            "{v} [is my age|years is my age|years have I lived|is how old I am]",
            "[I was born {v} years ago|I have lived for {v} years|I have {v} years behind me]",
            "[My age|As for age, it] is {v} [years|]",
        ],
        [
            "How old am I?",
            "How old am I?",
            "What is my age?",
            "Do you [know|remember] [how old I am|my age]?",
            "Tell me my age",
            "What age am I?",
            "[What|Which] [age|number of years] [do I have|is mine|did I mention|am I at|did I tell you]?",
            "How old [am I|did I say I am|have I become|do you think I am] [now|today|]?",
            "How many years [have I lived|do I have|am I old|did I mention]?",
            "[Can|Could|Would] you [tell me|say] [how old I am|my age]?",
            "[I forgot|Remember|I wonder|Tell me|Say|Guess] [how old I am|my age|what my age is]",
        ],
        "You are {v} years old.",
        ["I have been alive for {v} years"],
        ["What did I say my age is?", "How many years old am I?", "How long have I been alive?"],
    ),
    Kind(
        "pet",
        lambda rng, held_out: f"{rng.choice(words.ANIMALS)} {words.name(rng, held_out)}",
        [
            "My {v0} is called {v1}",
            "My {v0} is named {v1}",
            "I have a {v0} called {v1}",
            "I have a {v0} named {v1}",
            "The name of my {v0} is {v1}",
            "My {v0}'s name is {v1}",
            "I own a {v0} called {v1}",
            "We have a {v0} and it is called {v1}",
            "[There is|We keep|I keep|I bought|I got|We got|I adopted|We own|I live with|I feed] a {v0} [called|named|with the name|whose name is|and its name is|and it is called] {v1}",
            "{v1} is [my {v0}|the name of my {v0}|how my {v0} is called|our {v0}|the {v0} I have]",
            "[This is|Meet|Look at|I love] {v1}, my {v0}",
            "My {v0} [listens to|answers to|comes to|goes by] the name [of|] {v1}",
            "[I named|I call|We call|We named|They call] my {v0} {v1}",
            "My {v0}, {v1}[, is nice|, is hungry|, sleeps now|, is cute|, runs fast]",
        ],
        [
            "What is my {v0} called?",
            "What is my {v0}'s name?",
            "What is the name of my {v0}?",
            "What is my {v0} named?",
            "Do you [know|remember] the name of my {v0}?",
            "How is my {v0} called?",
            "Tell me the name of my {v0}",
            "What did I call my {v0}?",
            "[What|Which|How] [do|did|would] [I|we] [call|name] [my|the|our] {v0}?",
            "[What|Which] [name|] [did I give|do we use for|belongs to|is that of|did I tell you for] my {v0}?",
            "[Can|Could|Would|Will] you [tell me|say|name|repeat] [the name of my {v0}|how my {v0} is called|my {v0}'s name|what my {v0} is called]?",
            "[I forgot|Remember|I wonder|Tell me|Say|Guess|I need] [the name of my {v0}|how my {v0} is called|my {v0}'s name|what my {v0} is called]",
            "My {v0}, [what is its name|how is it called|what is it called|who is it]?",
            "To what name does my {v0} [listen|come|answer]?",
            "[And|So|Now] [what|who] is my {v0} [called|]?",
        ],
        "Your {v0} is called {v1}.",
        ["At home a {v0} named {v1} waits for me", "I take care of a {v0}, {v1}"],
        ["Which name does my {v0} have?", "By what name does my {v0} go?", "Which name did you note for my {v0}?"],
    ),
    Kind(
        "hobby",
        _list(words.HOBBIES, words.HELD_OUT_HOBBIES),
        [
            "My hobby is {v}",
            "I like {v}",
            "I love {v}",
            "In my free time I do {v}",
            "I enjoy {v}",
            "I am fond of {v}",
            "My great passion is {v}",
            "My [passion|pastime|favourite pastime|joy|sport|fun|interest] is {v}",
            "[I am|I was always] [into|crazy about|a fan of|keen on|happy with|good at] {v}",
            "[On Sundays|At weekends|After work|In the evening|When I am free|For fun|In my spare time|To relax] I [do|like|enjoy|practise|choose|go for] {v}",
            "{v} is [my hobby|my passion|what I like|what I love|what I do for fun|great fun for me|my thing]",
            "I [adore|practise|do|started|prefer|live for|cannot live without|always liked] {v}",
        ],
        [
            "What is my hobby?",
            "What do I like?",
            "What do I do in my free time?",
            "Do you [know|remember] my hobby?",
            "What do I enjoy?",
            "Tell me my hobby",
            "What am I fond of?",
            "[What|Which] [hobby|pastime|passion|sport|interest] [is mine|did I mention|do I enjoy|do I like|did I tell you|am I into]?",
            "What [am I into|am I keen on|do I love|do I practise|do I do for fun|do I do after work|makes me happy|am I a fan of|do I do on Sundays]?",
            "[Can|Could|Would] you [tell me|say|name] [my hobby|what I like|what I enjoy|what I do in my free time]?",
            "[I forgot|Remember|I wonder|Tell me|Say|Guess] [what my hobby is|what I like|what I enjoy|my hobby]",
        ],
        "You like {v}.",
        ["Nothing makes me happier than {v}", "I spend my weekends on {v}"],
        ["How do I spend my free time?", "Which hobby do I have?", "What do I like doing?"],
    ),
]
# "My favourite <thing> is <value>", "the <thing> is <value>": any attribute, so that the relation is learnt and not the list.
ATTRIBUTES = """favourite color;favourite food;favourite animal;favourite city;favourite number;favourite book;favourite song;favourite movie
;favourite day;favourite drink;favourite season;favourite game;lucky number;phone number;room number;door code;password;email
;user name;account number;order number;ticket number;car;boss;best friend;brother;sister;mother;father;wife;husband;son;daughter
;teacher;doctor;neighbour;birthday;birth month;shoe size;team;project;company;school;street;language;country;nickname;code word;seat
;flight;hotel;server;deadline;budget;locker code;gate;bus line;desk;bike;meeting room;favorite color;favorite food;favorite book""".replace(
    "\n", ""
).split(";")
HELD_OUT_ATTRIBUTES = [
    "favourite flower",
    "favourite sport",
    "favourite singer",
    "badge number",
    "cousin",
    "landlord",
    "tutor",
    "train",
    "wifi key",
    "dentist",
    "middle name",
]
ANY_TOLD = [
    "My {a} is {v}",
    "My {a} is {v}",
    "My {a} is {v}",
    "Remember that my {a} is {v}",
    "Remember: my {a} is {v}",
    "Note that my {a} is {v}",
    "Please remember that my {a} is {v}",
    "My {a}: {v}",
    "I tell you that my {a} is {v}",
    "For later: my {a} is {v}",
    "Keep in mind that my {a} is {v}",
    "You should know that my {a} is {v}",
    "By now my {a} is {v}",
    "[OK|Well|So], my {a} is {v}",
    "{v} is my {a}",
    "{v} is my {a}",
    "As my {a} I have {v}",
    "Write down: my {a} is {v}",
    "[Just so you know|FYI], my {a} is {v}",
    "Do not forget that my {a} is {v}",
    "I have {v} as my {a}",
    "The name of my {a} is {v}",
    "[Remember|Note|Know|Save|Store|Learn|Notice|See|Listen|Take note|Please note|Please save|Please store|Memorise|Record|Put down] [that|this:|:] my {a} is {v}",
    "[You can|You may|I want you to|You must|I ask you to|Try to] [remember|note|know|save|store] that my {a} is {v}",
    "[In case you wonder|For the record|As you know|By the way|Fun fact|Important|Information|Hint|Notice|First of all|To begin with][,|:] my {a} is {v}",
    "My {a} [is|was always|will be|stays|remains|is now|is called|equals|has become] {v}",
    "My {a} [is|has been] {v} [now|since today|since last year|as always|of course|]",
    "[For|As] my {a} [I have|I use|I got|we have|there is|I chose|I took] {v}",
    "[I have|I got|I use|I chose|I took|We have] {v} [for|as] my {a}",
    "[It is|I think it is|I say] {v} [that is|which is] my {a}",
    "{v}[ - that is| is|, this is| became| is now] my {a}",
    "About my {a}: [it is|it's|] {v}",
    "[I can tell you|I tell you|I have to say|I should mention|I mention|They say|I found out|I learned|I decided|It happens|I am happy] that my {a} is {v}",
    "[The|A] [fact|detail|thing|note] [about me|for you|to keep|to remember|to store]: my {a} is {v}",
]
ANY_TOLD_HELD_OUT = [
    "Make a note: my {a} is {v}",
    "Let it be known that my {a} is {v}",
    "When it comes to my {a}, it is {v}",
    "I want you to keep this: my {a} is {v}",
    "My {a} happens to be {v}",
    "Let me share that my {a} is {v}",
]
ANY_ASKED = [
    "What is my {a}?",
    "What is my {a}?",
    "What's my {a}?",
    "Do you [know|remember] my {a}?",
    "Tell me my {a}",
    "[Can|Could] you tell me my {a}?",
    "What did I say my {a} was?",
    "Which is my {a}?",
    "What was my {a}?",
    "What was my {a} again?",
    "Do you know what my {a} is?",
    "Say my {a}",
    "I forgot my {a}",
    "Remind me of my {a}",
    "I need my {a}",
    "My {a}?",
    "What [do|did] I have as my {a}?",
    "Repeat my {a}",
    "What is the name of my {a}?",
    "Please give me my {a}",
    "What {a} do I have?",
    "[Can|Could|Would|Will] you [please|kindly|quickly|still|] [tell|give|show|name|say|state|repeat|remind me of|write|list|mention|read out|look up|remember|recite|share] my {a} [again|for me|to me|once more|please|]?",
    "[Can|Could|Would|Will] you [please|kindly|quickly|still|] tell me [what|which|again what] my {a} [is|was|is called|might be]?",
    "[Please|Now|Kindly|Just|Quickly] [tell|give|show|name|say|state|repeat|remind me of|write|list|mention|read out|look up|remember|recite|share] my {a} [again|for me|to me|]",
    "[I|We] [want|need|wish|have|hope|would like|must|am trying] to [know|see|get|learn|check|remember|find|use|read|have] my {a} [again|now|please|]",
    "[I|We] [need|want|lost|am looking for|forgot|cannot find|cannot remember|ask for|do not have|miss] my {a} [again|now|please|]",
    "[Do|Did|Can|Will] you [still|] [have|know|see|remember|note|store|save|hold|find] my {a} [somewhere|there|by now|]?",
    "[Did I tell you|Have I told you|Did I mention|Did I give you|Have I given you|Did I say] my {a} [before|already|]?",
    "[What|Which] [is|was|were|has been|might be|did I say is|did I call|do you have as|do you have for|have you noted as|do you know of|did I give as|did I say about] my {a} [again|now|then|]?",
    "[What|Who|Which] [is|was] it[, that was| that is| I said was|,] my {a}?",
    "My {a}, [what|who|which] [is|was] it [again|]?",
    "My {a}[ please| again| is what| was what|, what was it|, do you know it|, tell me]?",
    "[Let me|Help me|Make me] [know|see|remember|find|check|have] my {a}",
    "[Any idea|A guess|Guess|Tell me|Say|I wonder|I ask myself|I am curious|Do you know|Are you sure|I forgot|Remember] [what|which] my {a} [is|was|might be]",
    "[How|By what words] did I [name|call|describe] my {a}?",
    "What do you [know|remember|have|see] [about|of|on] my {a}?",
    "[And|But|So|Now] [what|which] [about|of|is] my {a}?",
    "[Quiz|Test|Question|Memory|Recall|Check]: [what is|] my {a}?",
]
ANY_ASKED_HELD_OUT = [
    "Could you recall my {a}?",
    "What did I tell you about my {a}?",
    "Give me back my {a}",
    "I would like to hear my {a}",
    "Have you kept my {a}?",
    "What was the {a} I mentioned?",
    "Do me a favour and name my {a}",
    "Fill me in on my {a}",
]
NOTED = ["OK, I will remember that.", "Noted.", "Thank you, I will remember that."]
_AFTER = [phrasing for phrasing in frames.AFTER if phrasing.startswith(",")]
_WHERE = ["", "", "", "", "", "", "Hi. ", "Thanks. ", "OK. ", "Good. ", "By the way, ", "Now ", "And ", "So "]


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact, told and asked for in some words."""

    key: str
    told: str
    framed: str
    """`told` with words around it that do not matter."""
    asked: str
    value: str
    answer: str
    unknown: str


def fact(rng: random.Random, held_out_phrasing: bool, held_out_values: bool) -> Fact:
    """Make a fact up."""
    if rng.random() < 0.55:
        kind = KINDS[0] if rng.random() < 0.35 else rng.choice(KINDS)
        value = kind.value(rng, held_out_values)
        first, _, rest = value.partition(" ")
        slots = {"v": value, "v0": first, "v1": rest}
        tellings, askings = kind.told, kind.asked
        if kind.label != "pet" and not held_out_phrasing:
            # Now and then in the words for any attribute: "Remember that my job is baker".
            slots["a"] = "home town" if kind.label == "city" else kind.label
            tellings = ANY_TOLD if rng.random() < 0.25 else tellings
            askings = ANY_ASKED if rng.random() < 0.25 else askings
        told = _filled(rng, kind.told_held_out if held_out_phrasing else tellings, slots)
        asked = _filled(rng, kind.asked_held_out if held_out_phrasing else askings, slots)
        framed = told if held_out_phrasing else _framed(rng, told)
        if kind.label == "pet":
            unknown = f"You have not told me the name of your {first}."
            return Fact(f"pet {first}", told, framed, asked, rest, expand(rng, kind.answer, slots), unknown)
        missing = {"city": "where you live", "age": "how old you are"}.get(kind.label, f"your {kind.label}")
        answer = expand(rng, kind.answer, slots)
        return Fact(kind.label, told, framed, asked, value, answer, f"You have not told me {missing}.")
    attribute = rng.choice(HELD_OUT_ATTRIBUTES if held_out_values else ATTRIBUTES)
    if not held_out_values and rng.random() < 0.15:
        attribute = words.made_up(rng)
    value = _value(rng, attribute, held_out_values)
    slots = {"a": attribute, "v": value}
    told = _filled(rng, ANY_TOLD_HELD_OUT if held_out_phrasing else ANY_TOLD, slots)
    asked = _filled(rng, ANY_ASKED_HELD_OUT if held_out_phrasing else ANY_ASKED, slots)
    framed = told if held_out_phrasing else _framed(rng, told)
    answer, unknown = f"Your {attribute} is {value}.", f"You have not told me your {attribute}."
    return Fact(attribute, told, framed, asked, value, answer, unknown)


def _filled(rng: random.Random, phrasings: list[str], slots: dict[str, str]) -> str:
    return expand(rng, tidy(expand(rng, rng.choice(phrasings), KEEP)), slots)


def _framed(rng: random.Random, text: str) -> str:
    """The sentence among words that do not matter; what follows a value stands behind a comma, so that it ends clearly."""
    if rng.random() < 0.25:
        before = frames.noise(rng, rng.choice(frames.BEFORE), expand)
        own = text.split(" ", maxsplit=1)[0] in {
            "My",
            "The",
            "Remember",
            "Note",
            "Call",
            "People",
            "This",
            "They",
            "As",
            "For",
        }
        text = before + (text[0].lower() + text[1:] if own and before[-2] not in ".:?!" else text)
    if rng.random() < 0.15:
        text = text.rstrip("?") + frames.noise(rng, rng.choice(_AFTER), expand) + ("?" if text[-1] == "?" else "")
    return text


def _value(rng: random.Random, attribute: str, held_out: bool) -> str:
    last = attribute.rpartition(" ")[2]
    if rng.random() < 0.15:
        return words.code(rng) if rng.random() < 0.5 else words.made_up(rng)
    if last in {"color", "car", "bike"}:
        return words.pick(rng, words.COLORS, words.HELD_OUT_COLORS, held_out)
    if last == "food":
        return words.pick(rng, words.FOODS, words.HELD_OUT_FOODS, held_out)
    if last in {"number", "code", "password", "key", "size", "seat", "gate", "desk", "flight", "line", "budget"}:
        return words.code(rng)
    if last == "birthday":
        return f"{rng.choice(words.MONTHS)} {rng.randint(1, 28)}"
    if last in {"city", "country", "street", "hotel", "school", "company", "project"}:
        return words.pick(rng, words.CITIES, words.HELD_OUT_CITIES, held_out)
    return words.name(rng, held_out) if rng.random() < 0.7 else words.code(rng)


def tell(rng: random.Random, told: Fact) -> list[Said]:
    """The turn in which a fact is told."""
    text = told.framed + rng.choice((".", ".", ".", ".", "", "!"))
    if told.key == "name":
        reply = f"Nice to meet you, {told.value}." if rng.random() < 0.7 else f"Hello {told.value}, nice to meet you."
    else:
        reply = NOTED[0] if rng.random() < 0.7 else rng.choice(NOTED)
    return [Said("user", text), Said("assistant", reply)]


def ask(rng: random.Random, asked: Fact, known: bool, held_out_phrasing: bool = False) -> Exchange:
    """The turn in which a fact is asked for."""
    opener = "" if held_out_phrasing else rng.choice(_WHERE)
    body = asked.asked if held_out_phrasing else _framed(rng, asked.asked)
    if opener and opener[-2] != "." and body.split(" ")[0] not in {"I", "In"}:
        body = body[0].lower() + body[1:]
    answer = asked.answer if known else asked.unknown
    said = [Said("user", opener + body), Said("assistant", answer)]
    return Exchange("recall" if known else "not told", said, expect=asked.value if known else "not told")


def memory_lines(rng: random.Random, facts: list[Fact]) -> str:
    """Facts as a system turn gives them."""
    said = [fact.told.rstrip(".") for fact in facts]
    plain = [
        fact.answer.rstrip(".")
        .replace("Your ", "The user's ")
        .replace("You ", "The user ")
        .replace("user are", "user is")
        .replace("user live", "user lives")
        for fact in facts
    ]
    lines = plain if rng.random() < 0.5 else said
    head = rng.choice(
        (
            "Memory:",
            "Known about the user:",
            "What you remember:",
            "Facts:",
            "Relevant memory:",
            "From earlier conversations:",
        )
    )
    if rng.random() < 0.5:
        return head + "".join(f"\n- {line}" for line in lines)
    return head + " " + " ".join(f"{line}." for line in lines)
