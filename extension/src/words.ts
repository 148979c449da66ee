/** Words for what a panel names by a code: states, kinds, roles, resources, links of a proof, and what goes wrong. */
import type { Trans } from './env';
import type { Fault } from './faults';

function named(names: Record<string, string>, code: string): string {
  return Object.hasOwn(names, code) ? (names[code] ?? code) : code;
}

/** The state of a generation, or of what jobs are filtered by. */
export function stateName(state: string, trans: Trans): string {
  const names = {
    all: trans.__('all states'),
    live: trans.__('going on'),
    queued: trans.__('queued'),
    running: trans.__('running'),
    paused: trans.__('waits for money'),
    done: trans.__('done'),
    failed: trans.__('failed'),
    cancelled: trans.__('cancelled'),
    lost: trans.__('lost')
  };
  return named(names, state);
}

/** The state of a deployment or a report. */
export function phaseName(phase: string, trans: Trans): string {
  const names = {
    requested: trans.__('requested'),
    scheduled: trans.__('scheduled'),
    pulling: trans.__('fetches its image'),
    starting: trans.__('starting'),
    ready: trans.__('ready'),
    degraded: trans.__('degraded'),
    updating: trans.__('updating'),
    paused: trans.__('paused'),
    stopping: trans.__('stopping'),
    stopped: trans.__('stopped'),
    failed: trans.__('failed'),
    queued: trans.__('queued'),
    running: trans.__('running'),
    ok: trans.__('done'),
    partial: trans.__('not complete')
  };
  return named(names, phase);
}

export function kindName(kind: string, trans: Trans): string {
  const names = {
    generation: trans.__('generation'),
    deployment: trans.__('deployment'),
    report: trans.__('report')
  };
  return named(names, kind);
}

/** The state of a worker, or of a host of a model. */
export function hostState(state: string, trans: Trans): string {
  const names = {
    serving: trans.__('serving'),
    connecting: trans.__('connecting'),
    loading: trans.__('loading'),
    lost: trans.__('lost'),
    closed: trans.__('closed')
  };
  return named(names, state);
}

/** A file of a report, by its kind. */
export function fileName(kind: string, trans: Trans): string {
  const names = { html: trans.__('page'), pdf: 'PDF', json: trans.__('figures'), ipynb: trans.__('notebook') };
  return named(names, kind);
}

/** What a host does for a model beside its experts. */
export function roleName(role: string, trans: Trans): string {
  return named({ trunk: trans.__('trunk'), 'stand-by': trans.__('stand-by') }, role);
}

/** What usage is billed for. */
export function resourceName(resource: string, trans: Trans): string {
  const names = {
    expert: trans.__('expert work'),
    tokens_in: trans.__('tokens read'),
    tokens_out: trans.__('tokens written'),
    bytes: trans.__('bytes sent'),
    memory: trans.__('memory'),
    cpu: trans.__('processor time'),
    gpu: trans.__('GPU time'),
    storage: trans.__('storage')
  };
  return named(names, resource);
}

/** A link of a proof. */
export function linkName(link: string, trans: Trans): string {
  const names = {
    document: trans.__('document'),
    usage: trans.__('usage'),
    price: trans.__('price'),
    posting: trans.__('posting'),
    leaf: trans.__('leaf'),
    root: trans.__('root'),
    payout: trans.__('payout')
  };
  return named(names, link);
}

/** Whether it holds. */
export function linkState(state: string, trans: Trans): string {
  return named({ ok: trans.__('holds'), pending: trans.__('not yet'), failed: trans.__('broken') }, state);
}

/** What kind of thing went wrong. */
export function faultHeading(fault: Fault, trans: Trans): string {
  const names: Record<Fault['kind'], string> = {
    forbidden: trans.__('Not allowed'),
    gone: trans.__('Not there any more'),
    refused: trans.__('Refused'),
    outage: trans.__('No answer')
  };
  return names[fault.kind];
}

/** What went wrong here, and not at a server; null for what a server says, in English. */
export function faultText(fault: Fault, trans: Trans): string | null {
  switch (fault.type) {
    case 'here:kernel':
      return trans.__('The kernel does not answer. Is it running, or busy?');
    case 'here:network':
      return trans.__('There is no network now.');
    case 'here:status':
      return trans.__('The server answers with status %1.', fault.detail);
    case 'here:shape':
      return trans.__('The answer is not one of this version of rios (%1).', fault.detail);
    default:
      return null;
  }
}
