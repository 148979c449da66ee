/** What goes wrong, as it is shown: its kind, which the reader's language has words for, and who said what. */
import type { Problem } from './shapes';

/** forbidden: sign in, or ask for the right. gone: it is not there any more. refused: another request may do. */
export type Kind = 'forbidden' | 'gone' | 'refused' | 'outage';

export interface Fault {
  kind: Kind;
  /** The error of rios, or "here:..." for what went wrong on this side; `words.ts` has the words for these. */
  type: string;
  /** The words of whoever refused; of "here:...", what their words are filled in with. */
  detail: string;
}

/** A fault that is thrown. */
export class PanelError extends Error implements Fault {
  constructor(
    readonly kind: Kind,
    readonly type: string,
    readonly detail: string
  ) {
    super(detail);
  }
}

const KINDS: Record<string, Kind> = {
  NotSignedIn: 'forbidden',
  NotAllowed: 'forbidden',
  NotFound: 'gone',
  NetworkClosed: 'gone',
  GatewayLost: 'outage',
  HostLost: 'outage',
  TrunkLost: 'outage',
  DeadlineExceeded: 'outage',
  ExpertsUnavailable: 'outage',
  NoWorkers: 'outage',
  LedgerUnavailable: 'outage',
  ChainUnavailable: 'outage'
};

/** What a kernel or a section says without a status. */
export function faultOf(problem: Problem): Fault {
  return { kind: KINDS[problem.type] ?? 'refused', ...problem };
}

/** What was caught. */
export function caughtFault(error: unknown): Fault {
  if (error instanceof PanelError) {
    return error;
  }
  return { kind: 'outage', type: '', detail: error instanceof Error ? error.message : String(error) };
}

/** A kernel that does not say any more that it lives. */
export const SILENCE: Fault = { kind: 'outage', type: 'here:kernel', detail: '' };
