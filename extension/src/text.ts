/** Texts where there is no translation: as Lab's `__`, with %1 to %9 filled in. */
export function format(text: string, ...args: unknown[]): string {
  return text.replace(/%([1-9])/g, (whole, place: string) => {
    const value = args[Number(place) - 1];
    return value === undefined ? whole : String(value);
  });
}
