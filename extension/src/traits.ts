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
