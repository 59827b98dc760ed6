// One stop for the Tab key in a group of many: the arrow keys go on from there.

/**
 * Let Tab stop at one item of a group: the one that holds or is `current`, else the first.
 * @param {(HTMLElement | HTMLElement[])[]} items elements, or those that make up an item
 * @param {Node} [current]
 */
export function keepOneStop(items, current) {
  const groups = items.map((item) => [item].flat());
  const chosen = groups.findIndex((group) => group.some((element) => current?.contains(element)));
  groups.forEach((group, place) => {
    for (const element of group) element.tabIndex = place === Math.max(chosen, 0) ? 0 : -1;
  });
}

/**
 * Move the focus among the items of a group by two keys, and by Home and End.
 * @param {HTMLElement} group
 * @param {{next: string, previous: string}} keys
 * @param {() => HTMLElement[]} items
 */
export function goThrough(group, keys, items) {
  group.addEventListener("keydown", (event) => {
    const all = items();
    const at = all.indexOf(/** @type {HTMLElement} */ (document.activeElement));
    const places = { [keys.next]: at + 1, [keys.previous]: at - 1, Home: 0, End: all.length - 1 };
    if (at < 0 || !(event.key in places)) return;
    event.preventDefault();
    const target = all[Math.min(Math.max(places[event.key], 0), all.length - 1)];
    target.tabIndex = 0;
    target.focus();
  });
}
