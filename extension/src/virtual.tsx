/** A list of any length: only the rows in sight are there, and the keyboard reaches all of them. */
import * as React from 'react';

const OVERSCAN = 6;

export function VirtualList<T>(props: {
  rows: readonly T[];
  rowHeight: number;
  label: string;
  keyOf: (row: T) => string;
  render: (row: T, focused: boolean) => React.ReactNode;
  onOpen: (row: T) => void;
}): React.ReactElement {
  const { rows, rowHeight } = props;
  const box = React.useRef<HTMLDivElement>(null);
  const [top, setTop] = React.useState(0);
  const [height, setHeight] = React.useState(400);
  const [active, setActive] = React.useState<string | null>(null);
  React.useEffect(() => {
    const element = box.current;
    if (element === null) {
      return undefined;
    }
    const watch = new ResizeObserver(() => setHeight(element.clientHeight));
    watch.observe(element);
    return () => watch.disconnect();
  }, []);
  const first = Math.max(0, Math.floor(top / rowHeight) - OVERSCAN);
  const last = Math.min(rows.length, Math.ceil((top + height) / rowHeight) + OVERSCAN);
  const place = Math.max(
    0,
    rows.findIndex(row => props.keyOf(row) === active)
  );
  const id = React.useId();
  const go = (event: React.KeyboardEvent) => {
    const page = Math.max(1, Math.floor(height / rowHeight) - 1);
    const steps: Record<string, number> = {
      ArrowDown: place + (active === null ? 0 : 1),
      ArrowUp: place - 1,
      PageDown: place + page,
      PageUp: place - page,
      Home: 0,
      End: rows.length - 1
    };
    const row = rows[place];
    if ((event.key === 'Enter' || event.key === ' ') && row !== undefined && active !== null) {
      event.preventDefault();
      props.onOpen(row);
      return;
    }
    const wanted = steps[event.key];
    if (wanted === undefined || rows.length === 0) {
      return;
    }
    event.preventDefault();
    const next = Math.min(rows.length - 1, Math.max(0, wanted));
    const target = rows[next];
    const element = box.current;
    if (target === undefined || element === null) {
      return;
    }
    setActive(props.keyOf(target));
    if (next * rowHeight < element.scrollTop) {
      element.scrollTop = next * rowHeight;
    } else if ((next + 1) * rowHeight > element.scrollTop + element.clientHeight) {
      element.scrollTop = (next + 1) * rowHeight - element.clientHeight;
    }
  };
  const shown = rows.slice(first, last);
  const seen = active !== null && shown.some(row => props.keyOf(row) === active);
  return (
    <div
      ref={box}
      className="rios-list"
      role="listbox"
      tabIndex={0}
      aria-label={props.label}
      {...(seen ? { 'aria-activedescendant': `${id}-${active}` } : {})}
      onScroll={event => setTop(event.currentTarget.scrollTop)}
      onKeyDown={go}
    >
      <div style={{ height: rows.length * rowHeight, position: 'relative' }} role="presentation">
        {shown.map((row, offset) => {
          const key = props.keyOf(row);
          return (
            <div
              key={key}
              id={`${id}-${key}`}
              role="option"
              aria-selected={key === active}
              aria-setsize={rows.length}
              aria-posinset={first + offset + 1}
              className={`rios-row${key === active ? ' rios-active' : ''}`}
              style={{ top: (first + offset) * rowHeight, height: rowHeight }}
              onClick={() => {
                setActive(key);
                props.onOpen(row);
              }}
            >
              {props.render(row, key === active)}
            </div>
          );
        })}
      </div>
    </div>
  );
}
