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
