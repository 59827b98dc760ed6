// Elements without HTML text: what a file is called can never become markup.

/**
 * An HTML element with properties, attributes (under `attributes`) and children.
 * @param {string} name
 * @param {{attributes?: Record<string, string>} & Record<string, any>} properties
 * @param {...(Node | string | null | undefined)} children
 * @returns {any}
 */
export function element(name, { attributes = {}, ...properties } = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

/** An SVG element with attributes and children. */
export function shape(name, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

/** @type {(selector: string, within?: ParentNode) => any} */
export const find = (selector, within = document) => within.querySelector(selector);
/** @type {(selector: string, within?: ParentNode) => any[]} */
export const findAll = (selector, within = document) => [...within.querySelectorAll(selector)];
