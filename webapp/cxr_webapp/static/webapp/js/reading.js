// What decided in a reply: PNEUMONIA, or the classes that the reply names as positive.

/** {positive, negative, probability, called}: the classes of both sides as words, the probability that decides, the call. */
export function readingOf({ label, probabilities, decision }) {
  const { classes, probability, called } = decision.positive ?? {
    classes: ["PNEUMONIA"], probability: probabilities.PNEUMONIA, called: label === "PNEUMONIA",
  };
  const others = Object.keys(probabilities).filter((name) => !classes.includes(name));
  return { positive: classes.join(" / "), negative: others.join(" / "), probability, called };
}

/** A text about PNEUMONIA and NORMAL in the words of a reply. */
export function inWordsOf(reply, text) {
  if (!reply?.decision.positive) return text;
  const { positive, negative } = readingOf(reply);
  return text.replace("PNEUMONIA", positive).replace("NORMAL", negative);
}

/** Numbers by class as words, the positive classes first. */
export const byClass = (numbers, digits) => Object.entries(numbers).reverse().map(([name, value]) => `${name} ${digits(value)}`).join(", ");
