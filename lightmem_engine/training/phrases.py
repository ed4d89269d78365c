"""What people tell about themselves and those around them: statements and questions, in many words. Data.

In a phrase, `{who}` is the person ("I", "my sister", "Vessa"), `{whose}` the possessive, `{n}` a noun of the
attribute, `{v}` the value, and `[am|is]` chooses between the first person and the third. The first statement of an
attribute is the form in which extraction writes the fact. No phrase opens with a value that is written small: as the
first word of a sentence it would change its letters. In none does the value come before what it is the value of: a
model this small reads forwards, and would have to look twice.
"""

from __future__ import annotations

from dataclasses import dataclass

from lightmem_engine.training.values import Kind


@dataclass(frozen=True, slots=True)
class Attribute:
    """One thing that can be said of a person. `nouns`, if any, multiply it: each is an attribute of its own.

    topic: what an answer calls it, after the possessive.
    """

    topic: str
    kind: Kind
    say: tuple[str, ...]
    ask: tuple[str, ...]
    nouns: tuple[str, ...] = ()


def _nouns(text: str) -> tuple[str, ...]:
    return tuple(noun.strip() for noun in text.split(","))


ATTRIBUTES = (
    Attribute(
        "home",
        "place",
        ("{who} live[|s] in {v}", "{whose} home is in {v}", "{who} moved to {v}", "{who} [have|has] a flat in {v}"),
        ("Where [do|does] {who} live?", "Which city [do|does] {who} live in?", "Where is {whose} home?"),
    ),
    Attribute(
        "birthplace",
        "place",
        ("{who} [was|was] born in {v}", "{whose} birthplace is {v}", "{who} come[|s] from {v} originally"),
        ("Where [was|was] {who} born?", "What is {whose} birthplace?"),
    ),
    Attribute(
        "employer",
        "company",
        (
            "{who} work[|s] for {v}",
            "{whose} employer is {v}",
            "{who} got a job at {v}",
            "{who} [am|is] employed by {v}",
        ),
        ("Who [do|does] {who} work for?", "Where [do|does] {who} work?", "What is {whose} employer?"),
    ),
    Attribute(
        "job",
        "thing",
        ("{who} work[|s] as a {v}", "{whose} job is {v}", "{who} [am|is] a {v} by profession"),
        ("What is {whose} job?", "What [do|does] {who} work as?", "What is {whose} profession?"),
    ),
    Attribute(
        "favourite {n}",
        "thing",
        ("{whose} favourite {n} is {v}", "the {n} {who} like[|s] best is {v}", "as {n} {who} prefer[|s] {v}"),
        ("What is {whose} favourite {n}?", "Which {n} [do|does] {who} like best?"),
        _nouns("colour,dish,drink,flower,game,sport,animal,snack,fruit,tea,season,dance,instrument,cheese,stone"),
    ),
    Attribute(
        "favourite {n}",
        "title",
        ("{whose} favourite {n} is {v}", "the {n} {who} love[|s] most is {v}", "no other {n} pleases {whom} like {v}"),
        ("What is {whose} favourite {n}?", "Which {n} [do|does] {who} love most?"),
        _nouns("film,book,band,song,restaurant,cafe,painter,team,writer,museum,series"),
    ),
    Attribute(
        "{n}",
        "name",
        (
            "{whose} {n} is called {v}",
            "{whose} {n} is named {v}",
            "{who} named {whose} {n} {v}",
            "the name of {whose} {n} is {v}",
        ),
        ("What is {whose} {n} called?", "What is the name of {whose} {n}?"),
        _nouns("dog,cat,horse,parrot,rabbit,hamster,turtle,goat,pony,canary"),
    ),
    Attribute(
        "{n}",
        "name",
        ("{whose} {n} is {v}", "{whose} {n} is called {v}", "{who} [have|has] a {n} called {v}"),
        ("Who is {whose} {n}?", "What is the name of {whose} {n}?"),
        _nouns("doctor,dentist,teacher,lawyer,coach,landlord,manager,hairdresser,therapist,tutor,vet,mentor"),
    ),
    Attribute(
        "{n}",
        "code",
        ("{whose} {n} is {v}", "for {whose} {n} it says {v}", "{who} wrote down {whose} {n}: {v}"),
        ("What is {whose} {n}?", "Can you tell me {whose} {n}?"),
        _nouns("door code,locker number,bike lock code,customer number,booking code,flight number,member number,PIN"),
    ),
    Attribute(
        "{n}",
        "number",
        ("{whose} {n} is {v}", "{who} [have|has] {n} {v}", "for {whose} {n} they gave {v}"),
        ("What is {whose} {n}?", "Which {n} [do|does] {who} have?"),
        _nouns("extension,house number,room number,seat number,shoe size,desk number,bus number"),
    ),
    Attribute(
        "allergy",
        "thing",
        ("{who} [am|is] allergic to {v}", "{who} cannot eat {v}", "doctors told {whom} to avoid {v}"),
        ("What [am|is] {who} allergic to?", "What can {who} not eat?"),
    ),
    Attribute(
        "medicine",
        "thing",
        ("{who} take[|s] {v} every morning", "the doctor gave {whom} {v}", "{whose} medicine is {v}"),
        ("What medicine [do|does] {who} take?", "What is {whose} medicine?"),
    ),
    Attribute(
        "car",
        "company",
        ("{who} drive[|s] a {v}", "{whose} car is a {v}", "{who} got a {v} to drive"),
        ("What car [do|does] {who} drive?", "What is {whose} car?"),
    ),
    Attribute(
        "{n}",
        "money",
        ("{whose} new {n} cost {v}", "for the {n} {who} paid {v}", "the {n} {who} bought was {v}"),
        ("How much did {who} pay for the {n}?", "What did {whose} {n} cost?"),
        _nouns("lamp,bike,sofa,phone,jacket,desk,camera,watch,tent,guitar,oven,carpet,mirror,kettle"),
    ),
    Attribute(
        "visit to the {n}",
        "recent",
        ("{who} went to the {n} on {v}", "{who} [was|was] at the {n} on {v}", "{who} visited the {n} {when}"),
        ("When did {who} go to the {n}?", "On which day did {who} go to the {n}?"),
        _nouns("dentist,concert,zoo,museum,lake,theatre,market,hospital,wedding,beach,opera,fair,castle"),
    ),
    Attribute(
        "{n}",
        "date",
        ("{whose} {n} is on {v}", "{who} [have|has] a {n} on {v}", "{whose} {n} is planned for {v}"),
        ("When is {whose} {n}?", "What is the date of {whose} {n}?"),
        _nouns("exam,operation,interview,flight,graduation,marathon,move,recital,hearing,trip"),
    ),
    Attribute(
        "birthday",
        "day",
        ("{whose} birthday is on {v}", "{who} [have|has] a birthday on {v}", "{whose} birthday falls on {v}"),
        ("When is {whose} birthday?", "What day is {whose} birthday?"),
    ),
    Attribute(
        "{n}",
        "time",
        ("{whose} {n} is at {v}", "{whose} {n} starts at {v}", "{who} must be at the {n} at {v}"),
        ("What time is {whose} {n}?", "At what time does {whose} {n} start?"),
        _nouns("yoga class,choir practice,team meeting,piano lesson,night shift,swimming course,book club,train"),
    ),
    Attribute(
        "subject of study",
        "thing",
        ("{who} [am|is] learning {v}", "{who} take[|s] lessons in {v}", "{who} started to study {v}"),
        ("What [am|is] {who} learning?", "What [do|does] {who} study?"),
    ),
    Attribute(
        "hobby",
        "thing",
        ("{who} collect[|s] {v}", "{who} [have|has] a collection of {v}", "{whose} hobby is collecting {v}"),
        ("What [do|does] {who} collect?", "What is {whose} hobby?"),
    ),
    Attribute(
        "school",
        "company",
        ("{who} went to school at {v}", "{whose} school is {v}", "{who} graduated from {v}"),
        ("Which school did {who} go to?", "What is {whose} school?"),
    ),
    Attribute(
        "street",
        "title",
        ("{whose} street is {v}", "{who} [have|has] a house on {v}", "the street {who} live[|s] on is {v}"),
        ("What is {whose} street?", "Which street [do|does] {who} live on?"),
    ),
    Attribute(
        "{n}",
        "name",
        ("{whose} {n} is {v}", "{who} [have|has] a {n} named {v}", "the name of {whose} {n} is {v}"),
        ("What is the name of {whose} {n}?", "Who is {whose} {n}?"),
        _nouns("best friend,neighbour,roommate,godchild,dance partner,study partner,business partner,penfriend"),
    ),
    Attribute(
        "next trip",
        "place",
        ("{who} want[|s] to travel to {v}", "{who} [am|is] planning a holiday in {v}", "{whose} next trip goes to {v}"),
        ("Where [do|does] {who} want to travel?", "Where does {whose} next trip go?"),
    ),
    Attribute(
        "present",
        "thing",
        ("{whose} present was a {v}", "someone gave {whom} a {v} for the holidays", "the present {who} got was a {v}"),
        ("What present did {who} get?", "What was {whose} present?"),
    ),
    Attribute(
        "dislike",
        "thing",
        ("{who} hate[|s] {v}", "{who} cannot stand {v}", "{who} really dislike[|s] {v}"),
        ("What [do|does] {who} hate?", "What can {who} not stand?"),
    ),
)

RELATIONS = (
    *("sister", "brother", "mother", "father", "wife", "husband", "daughter", "son", "boss", "cousin", "aunt"),
    *("uncle", "grandmother", "grandfather", "colleague", "girlfriend", "boyfriend", "nephew", "niece", "partner"),
)
CHANGES = (
    *("Actually, {s}.", "Correction: {s}.", "News: {s} now.", "Things changed, {s} now.", "Update: {s}."),
    *("By the way, {s} now.", "{S} now.", "Not any more, now {s}.", "I was wrong, {s}.", "As of today {s}."),
)
OPENINGS = (
    *(
        "Hi there!",
        "Hey, how are you?",
        "Good morning.",
        "Quick note:",
        "So,",
        "Guess what!",
        "You know,",
        "By the way,",
    ),
    *(
        "Just so you know,",
        "I had a long day.",
        "It has been raining all week.",
        "Well,",
        "I forgot to say:",
        "Listen,",
    ),
    *("The weekend was lovely.", "Not much going on here.", "Oh, and", "Something else:", "For your notes:", "Okay,"),
    *(
        "I just had lunch.",
        "We talked about it last week.",
        "I am a bit tired today.",
        "Work was busy.",
        "Funny thing:",
    ),
)
CLOSINGS = (
    *("That is all for now.", "Anyway, thanks!", "Can you believe it?", "It makes me happy.", "What do you think?"),
    *("I hope it stays that way.", "Please keep it in mind.", "More on that later.", "See you soon!", "Nice, right?"),
    *("I need a coffee now.", "Anyway, how was your day?", "I will tell you more tomorrow.", "It took a while."),
)
CHATTER = (
    *("The weather is nice today.", "I am so tired.", "Can you tell me a joke?", "I watched a film last night."),
    *("Traffic was terrible this morning.", "Thanks for your help!", "What should I cook tonight?", "Hello again!"),
    *("I could not sleep at all.", "The garden needs water.", "How do I boil an egg?", "That sounds great."),
    *("I like talking to you.", "The coffee machine broke again.", "It is getting late.", "Let us talk tomorrow."),
    *("What a strange week.", "I think it will snow.", "My back hurts a little.", "Do you like music?"),
)
