/** What anywidget gives a view, and a view that is drawn anew when the kernel changes something. */
import * as React from 'react';

export interface WidgetModel {
  get(name: string): unknown;
  set(name: string, value: unknown): void;
  save_changes(): void;
  send(message: unknown): void;
  on(event: string, listener: (said: Record<string, unknown>) => void): void;
  off(event: string, listener: (said: Record<string, unknown>) => void): void;
}

/** Draw anew whenever one of these changes. */
export function useChanged(model: WidgetModel, names: readonly string[]): void {
  const [, again] = React.useReducer((count: number) => count + 1, 0);
  React.useEffect(() => {
    for (const name of names) {
      model.on(`change:${name}`, again);
    }
    return () => {
      for (const name of names) {
        model.off(`change:${name}`, again);
      }
    };
  }, [model, names]);
}

const SILENT_MS = 12_000;

/** Whether nothing came of the kernel for a while, which tells that it lives while `on`. */
export function useSilence(model: WidgetModel, on: boolean): boolean {
  const [silent, setSilent] = React.useState(false);
  React.useEffect(() => {
    setSilent(false);
    if (!on) {
      return undefined;
    }
    let heardAt = Date.now();
    const heard = () => {
      heardAt = Date.now();
      setSilent(false);
    };
    const timer = setInterval(() => setSilent(Date.now() - heardAt > SILENT_MS), 1000);
    model.on('msg:custom', heard);
    return () => {
      clearInterval(timer);
      model.off('msg:custom', heard);
    };
  }, [model, on]);
  return silent;
}

/** Say to a widget that it is looked at, and that it is not any more: nobody else can know when a cell is run again. */
export function useFollowed(model: WidgetModel): void {
  React.useEffect(() => {
    const heard = (said: Record<string, unknown>) => {
      if (said['ended'] === true) {
        model.send({ follow: true }); // another view went, this one is still there
      }
    };
    model.on('msg:custom', heard);
    model.send({ follow: true });
    return () => {
      model.off('msg:custom', heard);
      tell(model, { follow: false });
    };
  }, [model]);
}

/** Send what nobody can hear where the kernel has gone: then there is nothing to be done about it either. */
export function tell(model: WidgetModel, message: unknown): void {
  try {
    model.send(message);
  } catch (error) {
    console.debug('rios: the kernel of a widget has gone', error);
  }
}
