/** Texts outside the extension: as Lab's `__`, with %1 to %9 filled in, and in Lab's language where there is a Lab. */
import type { Trans } from './env';

// Notebook widgets are a bundle of their own, in the same page: there is no other way from one to the other.
const LENT = Symbol.for('rios.texts');
const page = globalThis as { [LENT]?: Trans };

/** Lend the page's translations to what is loaded beside the extension. */
export function lend(trans: Trans): void {
  page[LENT] = trans;
}

/** English. */
export function format(text: string, ...args: unknown[]): string {
  return text.replace(/%([1-9])/g, (whole, place: string) => {
    const value = args[Number(place) - 1];
    return value === undefined ? whole : String(value);
  });
}

/** The page's language where somebody lent its texts, else English. */
export const texts: Trans = {
  __: (text, ...args) => page[LENT]?.__(text, ...args) ?? format(text, ...args)
};
