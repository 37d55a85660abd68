"""Everyday words that carry no skill: what stands around the words that matter, and what no tool is there for."""

VERBS = """add adjust arrange ask attach back bake block borrow break brush build burn buy call cancel carry catch change
chase choose clean climb close collect combine complain connect cook copy count cover cross cut dance decide decorate
deliver design dial dig discuss dress drink drive drop dry eat empty enter erase exchange explore feed fetch fill finish fly
fold follow forgive forward gather greet grow guard guess hang heat help hide hire hold hunt hurry improve inform inspect
invest iron join jump keep kick knit knock land laugh launch lead learn leave lend lift lock lower march measure meet melt
mend mix move mow nail notify open order pack paint park pass pay peel pick plan plant play plug polish post pour practise
prepare press protect punish push race raise reach read record recycle reduce refill register remove replace rescue
reset ride ring roll rub run save scan scratch sell serve sew shake share shoot shout sign sit skip slice slow smell solve sort spend
spread stand start steal stir stop store study sweep swim switch teach tear test throw tidy tie touch trade train trim trust
type unlock unpack update visit wait wake walk warm warn watch water weigh win wipe wrap""".split()
NOUNS = """actor airport album animal answer apartment arm army artist aunt bag baker ball balloon banana bank basket bath beach bean
bear beard bed bee bell belt bicycle bird blanket blood board bone bottle bowl box boy bread breakfast brick bridge brother brush
bucket building bus butter button cable cake camel camera camp candle cap captain card carpet castle ceiling chain chair
cheese chest chicken child church cinema circus class cloud coat coffee coin comb concert corner cotton cousin cow cream crowd
cup curtain cushion dance danger desert desk diary dinner dish doctor doll dolphin door dragon drawer dream dress drum eagle
ear earth egg elephant elevator engine envelope eye face factory family fan farm feather fence festival field finger fire flag floor
flower fork fox freezer friend fruit furniture game garage gift giraffe glass glove gold grandmother grass guest hair hammer
hand hat heart helicopter helmet hill hole holiday honey horn hospital hotel ice idea insect island jacket jewel joke juice
jungle kettle king kitchen kite knee knife ladder lake lamb language lawn leaf leg lemon lesson letter library lion lip list lunch
machine magazine magnet market meal meat medicine meeting milk mirror monkey moon mother mountain mouse mouth movie mud museum music
nail neck needle nest newspaper nose nurse ocean office onion opera orange oven painting palace pan pants paper parcel parcel parents
party passport peace pear pencil pepper pillow pipe pirate plane plate pocket poem police pot potato present prince prison prize
pump purse puzzle queen question rain recipe restaurant rice river roof rope rug sail salt sandwich sauce saw scarf scissors
seat secret shadow shark sheep shelf ship shirt shoe shower sign sister skin skirt sky snow soap sock sofa soldier soup spider
spoon stage stairs stamp star statue story straw sugar suitcase summer sweater table tail tea tent theatre ticket tiger toast tomato
tongue tooth towel tower toy train tree truck trousers umbrella uncle vase violin volcano wagon wallet war watch wave wheel whistle
wife window wine wing winter wolf wool yard zebra""".split()
ADJECTIVES = """angry bad beautiful big bitter bored boring busy careful cheap cheerful clean clever cold common cool dangerous dark
dear deep dirty dry early easy empty expensive fair famous fast fat fine flat foreign fresh friendly full funny gentle glad great happy hard
heavy high hot huge hungry ill important interesting kind large lazy light little local long loud lovely lucky modern narrow
new nice noisy old open perfect plain pleasant poor popular pretty proud quick quiet rare ready rich right round rude sad safe salty serious
sharp short shy sick silly simple slow small soft sour special strange strong sweet tall terrible thick thin tired ugly useful
warm weak wet wide wild wise wonderful wrong young""".split()
ADVERBS = """again soon once quickly slowly today tonight tomorrow first always maybe really kindly simply briefly properly exactly
carefully actually directly finally gladly honestly later perhaps rather surely quietly""".split()
# Content-free verbs of the mind and of speech: frames around a question are made of these.
FRAMES = """wonder wondering curious asking hoping trying wish thinking guess suppose believe imagine hear learn see check confirm
verify explain mention share say state report provide supply offer hand pass deliver read write present display reveal
clarify answer respond reply advise inform explore examine discover establish obtain receive request require desire appreciate
grateful obliged delighted happy glad favour hurry rush moment minute second today tonight tomorrow morning evening kindly simply
just quickly briefly exactly precisely honestly maybe perhaps possibly anyway meanwhile besides furthermore however therefore
friend mate buddy colleague boss dear folks everyone homework exam lesson report meeting client customer""".split()
# The closed classes of English: what may stand anywhere and is never a name, a value or a unit.
FUNCTION_WORDS = """a about above according across after afterwards again against ago ahead albeit all almost alone along already also
although altogether always am amid among amongst an and another any anybody anyhow anyone anything anyway anywhere apart are
around as aside at away back be because been before beforehand behind being below beneath beside besides between beyond both but by
can cannot certain concerning considering could despite did do does doing done down during each either else elsewhere enough
entirely even ever every everybody everyone everything everywhere except few fewer following for forth forward from further had
hardly has have having he hence her here hers herself him himself his how however if in including indeed inside instead into is
it its itself just lately latter least less lest like likewise many may me meanwhile might mine more moreover most mostly much
must my myself namely near nearby nearly neither never nevertheless next no nobody none nor not nothing notwithstanding now
nowhere of off often on once one ones oneself only onto opposite or other others otherwise ought our ours ourselves out outside
over own past per perhaps plus previously quite rather regarding respectively same several shall she should since so some
somebody somehow someone something sometime sometimes somewhat somewhere soon still such than that the their theirs them
themselves then thence there thereby therefore these they this those though through throughout thus till to together too toward
towards under underneath unless unlike until unto up upon us using various versus very via was we well were what whatever when
whence whenever where whereas whereby wherever whether which whichever while who whoever whole whom whose why will with within
without would yes yet you your yours yourself yourselves""".split()
MORE_VERBS = """accept achieve admit adopt agree aim allow announce appear apply approach argue arrive assess assign assume assure attempt
attend avoid await become begin behave belong bet bind bite blame blow boast bother bow breathe care cause cease chat cheer claim
come command comment commit compare compete conclude conduct consist consult contact contain continue contribute control cost
cry cure damage dare deal declare define delay demand deny depend describe deserve destroy detect determine develop differ
disagree disappear doubt earn employ enable encourage end enjoy ensure escape exist expand expect extend face fail fall favour
feel fight fit fix float flow focus forget form gain get give go grab grant handle happen hate hit hope identify ignore imply
include increase indicate influence insist intend introduce involve issue judge justify lack last let lie like listen live
look lose love maintain make manage mark matter mean mention mind miss name need note notice obey occur offend operate
organise owe own participate perform permit persuade phone point possess prefer pretend prevent proceed produce promise
promote prove pull pursue put quit quote react realise recall receive recognise recommend recover refer reflect refuse regret reject
relate relax rely remain remember remind rent repair repeat represent resist respect rest result retire return reveal reward rise
ruin satisfy say search seek seem select settle shape shift shine shrink shut sink sleep smile speak specify split stay
stick strike struggle submit succeed suffer suggest suit surprise surround survive suspect suspend take talk tend thank tolerate
touch transfer travel treat try turn twist understand use vary view vote wander want waste wear whisper wonder worry yell
yield""".split()
MORE_ADJECTIVES = """able absent acceptable accurate active actual additional adequate afraid alive ancient annual anxious apparent
available average aware awful basic blank brave brief bright broad calm capable central chief civil clear close complete complex
constant correct crazy crucial curious current daily dead decent definite delicate dependent different difficult distant double dull
eager eastern economic elder entire equal essential exact extra faint false familiar final firm fixed formal former fortunate
frequent front general generous genuine global grand guilty handy harsh helpful honest honoured ideal inner internal known latest
legal likely listed lower loyal main major mental mere mild minor missing mixed mutual native natural neat necessary noted
normal northern obvious odd official opposite ordinary original outer parallel particular past permanent personal possible
precise present previous primary private probable proper public pure random raw real recent related relevant reliable remote
respective rough royal secure senior separate set severe silent similar single slight smooth solid sorted spare specific
stable steady stiff strict sudden sufficient suitable sure suspicious temporary total true typical unable unique unknown unusual urgent usual
valid valuable vast vital vivid welcome western whole willing worth""".split()
OTHER_WORDS = tuple(dict.fromkeys((*ADVERBS, *FRAMES, *VERBS, *MORE_VERBS, *ADJECTIVES, *MORE_ADJECTIVES)))
"""Words that may stand in a question and mean nothing there."""
