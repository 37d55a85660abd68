"""How facts are asked for, put together: what is meant (a noun, a clause, a question of its own) within any sentence.

Whole sentences, as in `facts.py`, are learnt by heart; here each meaning stands in each sentence, so that it is the words
for the meaning that decide.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Meaning:
    """What is asked for, in words, each with `[a|b]` choices: "my name", "who I am", "who am I"."""

    nouns: str
    clauses: str
    questions: str


_NOUN = [
    "[What|Which] [is|was|were|would be] {N}[ again| then| please| really|]?",
    "[Do|Did|Can] you [know|have|remember|see|keep|find|read] {N}[ somewhere| at all| there|]?",
    "[Can|Could|Would|Will] you [say|tell me|give me|show me|read me|repeat|look up|find|send me] {N}[ please| now| again|]?",
    "[Say|Tell me|Give me|Show me|Name|Read me|Look up|Find|State|Repeat|Send me|Search for] {N}[ please| now| again|]",
    "[I need|I want|I forgot|I lost|I am after|I would like|I ask for|I must have|I cannot find|I am not sure of] {N}",
    "{N}[,|:|. So] [please|what is it|what was it|do you have it|say it|quickly|which one]?",
    "{N}[ now| please| again|]?",
    "[Any idea|A hint|Some hint|A word|Anything] [on|about|of] {N}?",
    "[How about|What about|And|So|Now|Next is] {N}[, please|, then|]?",
    "[May|Can|Could|Must] I [have|get|hear|see|know] {N}[ please| now| again|]?",
    "[Is|Was] {N} [in|among|part of|somewhere in] [your notes|your files|what you know|your head|what I said]?",
    "[I think|I hope|I guess|Maybe|Perhaps|Surely|Of course|I believe] you [have|know|remember|noted|heard|saw] {N}",
    "[Your notes|Your files|My words|The notes] [say|hold|tell|show] what [of|as] {N}?",
    "[Let|Have] me [hear|see|know|get] {N}",
    "[It is time for|Time for|Back to|On with|Now to] {N}",
    "[When|If|In case] [they|people|you|somebody] ask[ you|] for {N}, what [is it|do you say|is the answer]?",
    "[The question is|My question is|I ask about|This is about|It is about|I mean|I speak of] {N}",
    "[What did I|What do I] [give as|note as|have for|use as] {N}?",
]
_CLAUSE = [
    "[Tell me|Say|Show me|Let me know|Remind me|Write|Repeat|Name|Guess] {C}[ please| now| again|]",
    "[Do|Did|Can|Could|Will|Would] you [know|remember|say|tell me|see|tell|guess|find out] {C}[ please| now| again|]?",
    "[I forgot|I wonder|I ask myself|I would like to know|I want to hear|I want to know|I am not sure|I need to know|I do not know] {C}",
    "[Any idea|Any thought|Any guess|A guess|Some idea|An idea] {C}?",
    "[Who knows|You know|You heard|You noted|You remember|You saw] {C}[, right|, so tell me|, say it|]?",
    "[Is it noted|Is it clear|Is it known|Did I say|Did you note|Did you write down|Have you noted|Did you hear|Did I tell you] {C}?",
    "[The question is|My question is|It is about|I ask|Somebody asks|They ask|They want to know|My friend wonders] {C}",
    "[From your notes|By what I said|As I told you|From before|For the record], {C}?",
]
_QUESTION = [
    "{Q}?",
    "{Q}?",
    "[So|And|Well|Now|OK|Tell me|Quick|Say|Listen|Remind me|Once more|Sorry|Hm|Then|But][,|:|] {Q}?",
    "{Q}[ again| now| then| in fact| really| by the way|, do you know|, please|, I wonder| these days|, if you know]?",
    "[From|Going by|According to|By] [what I said|your notes|my words|our talk|all you know|what I told you][,|:] {Q}?",
    "[If I ask you|A quiz|One question|The question|Another one|A test|I ask you][,|:] {Q}?",
]


def phrasings(meaning: Meaning) -> list[str]:
    """All sentences of a meaning, for `grammar.expand`."""
    return [
        frame.replace(slot, f"[{ways}]")
        for frames, slot, ways in (
            (_NOUN, "{N}", meaning.nouns),
            (_CLAUSE, "{C}", meaning.clauses),
            (_QUESTION, "{Q}", meaning.questions),
        )
        for frame in frames
    ]


_MEANINGS = {
    "name": Meaning(
        "my [|first |full |given |own |real ]name|the name [that I gave|I have|I use|of mine|my parents gave me|on my door"
        "|in my passport|I was born with|that is mine|you call me by|I said|I introduced myself with|people use for me|I bear"
        "|I wrote|I sign with]|the name of [this user|the user|the person here|the one who asks|yours truly]",
        "who [I am|this is|it is|you help|you serve|you answer|the user is|asks you|I said I was|I claimed to be|sits here]"
        "|what [I am called|people call me|they call me|you call me|I am named|my friends call me|my name is|my parents called me"
        "|to call me|I was named|name I have|name is mine]|how [I am called|people call me|to call me|to address me|I am named"
        "|I was named|my name is|my name goes]",
        "who [am I|could I be|was I|would I be|do you think I am|is this|is it|is here|is your user|is the user|is asking|did I say I am]"
        "|whom do you [serve|help|see|write to]|what [am I named|am I called|do people call me|do my friends call me|do others call me"
        "|did my parents call me|did my mother name me|is the name I have|name is mine|name was I given|name do I bear|name do I use]"
        "|how [am I named|am I addressed|am I called|do my friends call me|do you call me|should one call me]",
    ),
    "city": Meaning(
        "my [|home ][city|town|village|place]|my [home|address|home address]|the [city|town|place|village] [I live in|where I live"
        "|I come from|I moved to|that is my home|I am at home in|where my house is|where I sleep|I named as home|I have my flat in"
        "|that I live in|around my house|where they know me]",
        "where [I live|my home is|I am at home|my house is|I dwell|I stay|I have my home|my family lives|I go home|I sleep|my flat is"
        "|my door is|home is]|[what|which] [city|town|place] [I live in|is my home|I am from|I told you|I moved to|is mine]"
        "|in [what|which] [city|town|place] I [live|am at home|dwell|have my house]",
        "where [do I live|am I at home|is home for me|do I dwell|is my house|do I have my home|can one find me|do my friends visit me"
        "|is it that I live|does my family live|is my door|do I stay|do I have my bed|is my kitchen|did I move|does my bus end]"
        "|in [what|which] [city|town|place] [is my house|do I have my home|am I at home|do I dwell|is my door|do I live now]"
        "|[what|which] [city|town|place|village] [do I live in|am I from|is my home|do I dwell in|is my own|did I move to]",
    ),
    "job": Meaning(
        "my [|own |present ][job|work|profession|trade|occupation|career|role at work|position|employment]|the [job|work|profession|trade] "
        "[I do|I have|I told you of|I am paid for|I go to|that pays me|I was trained for|I live on|of mine|on my contract]",
        "what [I work as|I do for work|my job is|I do for money|I am at work|I get paid for|my work is|my profession is|I was hired for"
        "|I do at the office|I am paid to do|my trade is|job I have|work I do]|how I [earn money|make money|earn my pay|get my money"
        "|pay my bills]",
        "what [do I work as|do I do at work|do I do for work|is it I work as|do I get paid for|sort of job do I have|am I employed as"
        "|pays my bills|is my work|job is mine|profession is mine|do I do from Monday to Friday|did I train to be|am I paid to do"
        "|do colleagues know me as]|how do I [make money|earn my pay|make ends meet|get paid|earn money]|[what|which] "
        "[job|profession|trade|work] [do I have|is mine|do I do|pays me]",
    ),
    "age": Meaning(
        "my [|own |exact |present ]age|the age [I told you|I am|I have|I named|of mine|of this user|of the user]"
        "|the number of my [years|birthdays]|my age in years",
        "how old I [am|was|have become|said I was|will say I am]|what [my age is|age I have|age I am]|how many [years I have lived"
        "|birthdays I have had|years I have seen|birthdays I saw|years I am]",
        "how [old am I|old is the user|old did I say I was|old must I be|old have I grown|aged am I]|what [is my age|age am I"
        "|age do I have|age is mine|age did I say]|how many [birthdays have I had|years have I lived|years have I seen|birthdays did I have]",
    ),
    "pet": Meaning(
        "the name of [my|our|the] {v0}|my {v0}'s name|our {v0}'s name|the name I gave [my|our|the] {v0}|the name [we|I] call the {v0} by"
        "|the {v0}'s name|the name for my {v0}",
        "[what|how] [my|our|the] {v0} is [called|named]|what [I|we] [call|called|named|name] [my|our|the] {v0}"
        "|[what|which] name [I|we] gave [my|our|the] {v0}|what to call my {v0}|who my {v0} is",
        "[what|how] [do|did] [I|we] [call|name] [my|our|the] {v0}|[what|how] is [my|our|the] {v0} [called|named]"
        "|what is [my|our|the] {v0}'s name|what name [did I give|did we give|fits|is on the bowl of] [my|our|the] {v0}"
        "|the {v0} [we have|I keep|at home|in our house|of mine], [what is it called|how is it called|what is its name]"
        "|who is [my|our] {v0}",
    ),
    "hobby": Meaning(
        "my [|favourite |own |great ][hobby|pastime|passion|activity|sport|fun]|my [great love|leisure|interest|favourite thing to do]"
        "|the [hobby|thing|activity|sport|pastime] [I love|I like|I enjoy|I am into|I love best|I prefer|I told you of|I do for fun"
        "|that makes me happy|I am mad about|close to my heart|I named|I like most|I am fond of|I enjoy most]",
        "what [I like|I love|I enjoy|I do for fun|I am into|I like most|I love most|makes me happy|I like to do|I enjoy most"
        "|I do on free days|I do in my leisure|I would rather do|pleases me|amuses me|interests me|I am mad about|I do after work"
        "|I am fond of|my hobby is|my pastime is|my passion is|delights me|I do with my free time]|how I [relax|unwind|amuse myself"
        "|enjoy myself|have fun|fill my free hours|pass my free days|pass the evenings]",
        "what [do I love|do I like|do I enjoy|am I into|do I like to do|would I rather do|do I do for fun|amuses me|pleases me"
        "|interests me|delights me|do I love most|do I enjoy the most|am I mad about|is it I love|is it I enjoy|is it that I enjoy"
        "|do I do when I am free|do I do at weekends|am I fond of|do I find fun|do I do in my leisure|do I do with free time"
        "|is my passion|makes me smile|do I like best]|how do I [relax|unwind|have fun|amuse myself|pass the time|enjoy myself"
        "|fill a free afternoon|pass an evening]|[what|which] [hobby|pastime|sport|activity] [is mine|do I love|do I like|do I enjoy"
        "|makes me happy|amuses me]",
    ),
    "": Meaning(
        "my {a}|my {a}|my own {a}|the {a} [I told you|I gave you|I have|of mine|that is mine|I named|I spoke of|I use|I said|of this user]"
        "|the [name|value|entry|note] for my {a}",
        "what my {a} is|what my {a} was|what I [told you|said|gave|noted|have|named] [as|for] my {a}|what is my {a}"
        "|which {a} [is mine|I have|I told you|I use|I named]|how my {a} is [called|named]|who my {a} is",
        "[what|which|who] [is|was] my {a}|what do I have [as|for] my {a}|[what|which] {a} [do I have|is mine|did I name|do I use"
        "|have I|is my own]|what [did I|do I] [give|name|note|call] [as|for] my {a}|how is my {a} [called|named]",
    ),
}
ASKED = {label: phrasings(meaning) for label, meaning in _MEANINGS.items()}
"""Sentences by the label of a kind; under "" those for any attribute `{a}`."""
