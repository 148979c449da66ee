/**
 * Money as text. Amounts are whole numbers of wei, as decimal strings: a JavaScript number is exact to 2^53 only, which
 * is less than a hundredth of a ROS.
 */
const DECIMALS = 18;
const SHOWN_DECIMALS = 6;
const SHOWN_DIGITS = 2;
const WEI = /^-?\d{1,78}$/;

/** Whether a text is an amount of wei. */
export function isWei(text: string): boolean {
  return WEI.test(text);
}

/** Wei in ROS, exact and without trailing zeros: "24.731". */
export function ros(wei: string): string {
  const amount = BigInt(wei);
  const digits = (amount < 0n ? -amount : amount).toString().padStart(DECIMALS + 1, '0');
  const whole = digits.slice(0, -DECIMALS);
  const fraction = digits.slice(-DECIMALS).replace(/0+$/, '');
  return `${amount < 0n ? '-' : ''}${whole}${fraction ? `.${fraction}` : ''}`;
}

/** The same cut, never rounded up, to six decimals, or of less than a ROS to two digits where these come later. */
export function shortRos(wei: string): string {
  const exact = ros(wei);
  const [whole = '0', fraction = ''] = exact.split('.');
  const zeros = /^-?0$/.test(whole) ? fraction.search(/[1-9]/) : 0;
  const cut = fraction.slice(0, Math.max(SHOWN_DECIMALS, zeros + SHOWN_DIGITS)).replace(/0+$/, '');
  return cut ? `${whole}.${cut}` : whole;
}

/** The sum of amounts of wei. */
export function sum(amounts: Iterable<string>): string {
  let total = 0n;
  for (const one of amounts) {
    total += BigInt(one);
  }
  return total.toString();
}

/** Which share `part` is of `whole`, from 0 to 1, for lengths of bars; 0 of nothing. */
export function share(part: string, whole: string): number {
  const all = BigInt(whole);
  if (all <= 0n) {
    return 0;
  }
  const thousandths = (BigInt(part) * 1000n) / all;
  return Number(thousandths > 1000n ? 1000n : thousandths < 0n ? 0n : thousandths) / 1000;
}

/** Orders amounts of wei. */
export function compareWei(a: string, b: string): number {
  const [left, right] = [BigInt(a), BigInt(b)];
  return left < right ? -1 : left > right ? 1 : 0;
}
