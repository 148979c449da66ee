/** What all views share: the state, the language, and what only the surrounding application can do. */
import * as React from 'react';
import { PanelModel, Snapshot } from './model';

/** As JupyterLab's TranslationBundle: `__('%1 of %2', 1, 2)`. */
export interface Trans {
  __(text: string, ...args: unknown[]): string;
}

/** What is kept over a reload. Nothing in it is secret, and nothing in it is an amount. */
export interface Prefs {
  network: string | null;
  search: string;
  state: string;
  kind: string;
  sort: string;
  group: string;
}

export const DEFAULT_PREFS: Prefs = { network: null, search: '', state: 'all', kind: 'all', sort: 'newest', group: 'none' };

export interface Env {
  model: PanelModel;
  trans: Trans;
  prefs: Prefs;
  keep(change: Partial<Prefs>): void;
  /** Open a notebook by its path; null where there is no place to open one. */
  openNotebook: ((path: string) => void) | null;
  /** Whether networks can be started and ended from here. */
  manages: boolean;
  /** How to get in again when signed out. */
  signIn: string;
}

const Context = React.createContext<Env | null>(null);
export const EnvProvider = Context.Provider;

export function useEnv(): Env {
  const env = React.useContext(Context);
  if (env === null) {
    throw new Error('a view of rios outside its environment');
  }
  return env;
}

export function useSnapshot(): Snapshot {
  const { model } = useEnv();
  return React.useSyncExternalStore(model.subscribe, model.current);
}

/** The time in milliseconds, again every `everyMs`, while `on`. */
export function useNow(everyMs: number, on = true): number {
  const [now, setNow] = React.useState(Date.now());
  React.useEffect(() => {
    if (!on) {
      return undefined;
    }
    setNow(Date.now());
    const timer = setInterval(() => setNow(Date.now()), everyMs);
    return () => clearInterval(timer);
  }, [everyMs, on]);
  return now;
}

/** How long ago, in words: "12 s", "3 min", "2 h", "5 d". */
export function age(ms: number, trans: Trans): string {
  const seconds = Math.max(0, Math.floor(ms / 1000));
  if (seconds < 60) {
    return trans.__('%1 s', seconds);
  }
  if (seconds < 3600) {
    return trans.__('%1 min', Math.floor(seconds / 60));
  }
  return seconds < 86400 ? trans.__('%1 h', Math.floor(seconds / 3600)) : trans.__('%1 d', Math.floor(seconds / 86400));
}

/**
 * The language for dates: the page's, which JupyterLab sets with its texts. English is what it has when nobody chose; then
 * the browser knows better how its user writes dates.
 */
function language(): string | undefined {
  const found = document.documentElement.lang;
  return found && !found.startsWith('en') ? found : undefined;
}

/** A moment in seconds since 1970, with its day. */
export function dateTime(seconds: number): string {
  return new Date(seconds * 1000).toLocaleString(language());
}

/** Its time of day alone. */
export function timeOfDay(seconds: number): string {
  return new Date(seconds * 1000).toLocaleTimeString(language());
}

/** The same to the minute, which is what a narrow list has room for. */
export function minuteOfDay(seconds: number): string {
  return new Date(seconds * 1000).toLocaleTimeString(language(), { hour: '2-digit', minute: '2-digit' });
}

/** A day such as "2026-11-28", without its year. */
export function shortDay(day: string): string {
  return new Date(`${day}T00:00:00Z`).toLocaleDateString(language(), { day: 'numeric', month: 'short', timeZone: 'UTC' });
}

/** Bytes for people. */
export function size(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = bytes;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit] ?? ''}`;
}
