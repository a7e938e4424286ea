/** The page's element of that id. @throws Error where the page has none of that kind: page and script do not fit */
export function byId<E extends HTMLElement>(id: string, kind: new () => E): E {
  const found = document.getElementById(id);
  if (!(found instanceof kind)) throw new Error(`#${id}: expected a ${kind.name} in the page`);
  return found;
}

/** A new element with a class, and children of which strings are text, never markup. */
export function element<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  className: string,
  ...children: (Node | string)[]
): HTMLElementTagNameMap[K] {
  const made = document.createElement(tag);
  if (className !== '') made.className = className;
  made.append(...children);
  return made;
}

export function button(label: string, onClick: (button: HTMLButtonElement) => void): HTMLButtonElement {
  const made = element('button', 'quiet', label);
  made.type = 'button';
  made.addEventListener('click', () => onClick(made));
  return made;
}

/** The chosen one of the radio buttons `name`. */
export function chosen(name: string): string {
  return radios(name).find(({ checked }) => checked)?.value ?? '';
}

export function choose(name: string, value: string): void {
  for (const radio of radios(name)) radio.checked = radio.value === value;
}

export function radios(name: string): HTMLInputElement[] {
  return [...document.querySelectorAll<HTMLInputElement>(`input[name="${name}"]`)];
}

/** Tells those who listen to the page; one piece of news replaces the other. */
export function announce(news: string): void {
  byId('log', HTMLDivElement).replaceChildren(element('p', '', news));
}
