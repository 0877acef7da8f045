/** Five texts that each show one thing about the three models. */

/** @type {{name: string, text: string, look: string}[]} */
export const EXAMPLES = [
  {
    name: "A giraffe",
    text: "She poured some milk into her coffee, took a spoon out of the drawer and stirred it with a giraffe.",
    look: "The giraffe astonishes the LLM. The two small models have read so little that the coffee surprises them more.",
  },
  {
    name: "A name comes back",
    text: "In the spring Ottilie Varga opened a small bakery by the harbour. Every morning before dawn Ottilie Varga lit the oven.",
    look: "The second time, the LLM has learned the name from the text itself. Strike out its first mention and watch. The other two never learn it.",
  },
  {
    name: "A word decides far away",
    text: "The keys that the old man had hidden behind the clock in the kitchen were rusty.",
    look: "“Were” belongs to “keys”, twelve words before it. Strike out “keys”: only a model that still remembers them minds.",
  },
  {
    name: "Word salad",
    text: "The coast Pacific of along the ran railway first the. The first railway ran along the coast of the Pacific.",
    look: "The same words twice, first shuffled. The LLM is lost, and then at ease. For the small models, order matters less.",
  },
  {
    name: "Facts",
    text: "Water boils at a hundred degrees. The capital of France is Paris, and the capital of Japan is Tokyo.",
    look: "After “the capital of Japan is”, the LLM expects Tokyo. The two small models have never read that name.",
  },
];

/** A passage, a question that it answers, and one that it does not. */
export const PASSAGES = [
  {
    name: "Lighthouse",
    context:
      "The lighthouse on the northern cape was built in 1889 after three ships had been lost in one winter. Until 1921 the light was kept by Anna Berg, who wrote down every storm. Her daughter sold the diaries to the museum in Tromsø.",
    questions: ["Who kept the light?", "When was the lighthouse built?", "How tall is the lighthouse?"],
  },
  {
    name: "Io",
    context:
      "Io is the most volcanically active body in the Solar System. Galileo Galilei noticed it in January 1610, but its fiery nature stayed hidden until 1979, when the engineer Linda Morabito spotted a plume in an image from the Voyager 1 spacecraft.",
    questions: ["Who first spotted a volcanic plume?", "When did Galileo notice Io?", "How far is Io from the Sun?"],
  },
];

/** Texts for the guessing game. */
export const RIDDLES = [
  "The old clock in the station had stopped years ago, but every morning people still looked up at it before they boarded the train.",
  "When the snow began to melt, the river rose so quickly that the farmers had to move their sheep to higher ground.",
  "He had forgotten his umbrella, so he waited under the bridge until the rain stopped and then walked home.",
];
