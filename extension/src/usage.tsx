/** The usage behind an amount, and the proof behind a usage. */
import * as React from 'react';
import { dateTime, useEnv, useSnapshot } from './env';
import { isLive } from './model';
import { Amount, Asked, Modal } from './parts';
import type { Usage } from './shapes';
import { kindName, linkName, linkState, resourceName } from './words';

/** What an amount consists of; each row opens its proof. */
export function UsageDialog(props: {
  title: string;
  filters: Record<string, string>;
  onClose: () => void;
}): React.ReactElement {
  const { model, trans } = useEnv();
  const [proved, setProved] = React.useState<string | null>(null);
  return (
    <Modal title={props.title} onClose={props.onClose}>
      {proved === null ? (
        <Asked ask={() => model.api.usage(props.filters)} again={JSON.stringify(props.filters)}>
          {found => <UsageTable usage={found} onProve={setProved} />}
        </Asked>
      ) : (
        <>
          <button className="rios-button" autoFocus onClick={() => setProved(null)}>
            {trans.__('Back to the usage')}
          </button>
          <ProofTable usageId={proved} />
        </>
      )}
    </Modal>
  );
}

function UsageTable(props: { usage: Usage; onProve: (id: string) => void }): React.ReactElement {
  const { trans } = useEnv();
  const { usage } = props;
  const refunded = usage.refunded_wei !== '0';
  if (usage.count === 0) {
    return <p>{trans.__('Nothing was used.')}</p>;
  }
  return (
    <>
      <p>
        {trans.__('%1 records, together', usage.count)} <Amount wei={usage.total_wei} exact />
        {refunded ? (
          <>
            {' · '}
            {trans.__('given back of it:')} <Amount wei={usage.refunded_wei} exact />
          </>
        ) : null}
        {usage.rows.length < usage.count ? ` · ${trans.__('the newest %1 are shown', usage.rows.length)}` : ''}
      </p>
      <div className="rios-scroll" tabIndex={0} role="region" aria-label={trans.__('Usage records')}>
        <table>
          <thead>
            <tr>
              <th scope="col">{trans.__('time')}</th>
              <th scope="col">{trans.__('model')}</th>
              <th scope="col">{trans.__('worker')}</th>
              <th scope="col">{trans.__('for')}</th>
              <th scope="col" className="rios-number">{trans.__('amount')}</th>
              <th scope="col">{trans.__('proof')}</th>
            </tr>
          </thead>
          <tbody>
            {usage.rows.map(row => (
              <tr key={row.usage_id}>
                <td>{dateTime(row.at)}</td>
                <td>{row.model}</td>
                <td>{row.worker}</td>
                <td title={`${row.quantity} · ${row.price} / ${row.unit}`}>{resourceName(row.resource, trans)}</td>
                <td className="rios-number">
                  <Amount wei={row.amount_wei} />
                </td>
                <td>
                  <button
                    className="rios-button"
                    onClick={() => props.onProve(row.usage_id)}
                    aria-label={trans.__('Prove %1', row.usage_id)}
                  >
                    {trans.__('prove')}
                  </button>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
    </>
  );
}

/** What own workers have earned, by what they did. */
export function EarnedDialog(props: { onClose: () => void }): React.ReactElement {
  const { model, trans } = useEnv();
  return (
    <Modal title={trans.__('Earned by own workers')} onClose={props.onClose}>
      <Asked ask={() => model.api.earned()} again="">
        {found =>
          found.lines.length === 0 ? (
            <p>{trans.__('Nothing was used.')}</p>
          ) : (
            <>
              <p>{trans.__('Refunds are taken off in the sum.')}</p>
              <table>
                <thead>
                  <tr>
                    <th scope="col">{trans.__('worker')}</th>
                    <th scope="col">{trans.__('model')}</th>
                    <th scope="col">{trans.__('for')}</th>
                    <th scope="col" className="rios-number">{trans.__('amount')}</th>
                  </tr>
                </thead>
                <tbody>
                  {found.lines.map(one => (
                    <tr key={`${one.worker} ${one.model} ${one.resource}`}>
                      <td>{one.worker}</td>
                      <td>{one.model}</td>
                      <td>{resourceName(one.resource, trans)}</td>
                      <td className="rios-number">
                        <Amount wei={one.wei} exact />
                      </td>
                    </tr>
                  ))}
                </tbody>
              </table>
            </>
          )
        }
      </Asked>
    </Modal>
  );
}

/** What is held, by who holds it: the jobs that go on. */
export function HeldDialog(props: { onClose: () => void }): React.ReactElement {
  const { trans } = useEnv();
  const live = [...useSnapshot().jobs.values()].filter(isLive);
  return (
    <Modal title={trans.__('Held for what goes on')} onClose={props.onClose}>
      <p>{trans.__('The highest price of each is set aside; what is left of it comes back at its end.')}</p>
      {live.length === 0 ? <p>{trans.__('Nothing goes on.')}</p> : null}
      <ul>
        {live.map(job => (
          <li key={job.id}>
            {job.name} · {kindName(job.kind, trans)} · {trans.__('so far, about')} <Amount wei={job.cost_wei} />
          </li>
        ))}
      </ul>
    </Modal>
  );
}

function ProofTable(props: { usageId: string }): React.ReactElement {
  const { model, trans } = useEnv();
  return (
    <Asked ask={() => model.api.proof(props.usageId)} again={props.usageId}>
      {found => (
        <>
          <p className="rios-mono">{found.usage_id}</p>
          <p role="status">
            <b>{found.verified ? trans.__('Every link that exists holds.') : trans.__('A link does not hold!')}</b>
          </p>
          <table>
            <thead>
              <tr>
                <th scope="col">{trans.__('link')}</th>
                <th scope="col">{trans.__('state')}</th>
                <th scope="col">{trans.__('why')}</th>
              </tr>
            </thead>
            <tbody>
              {found.links.map(link => (
                <tr key={link.name}>
                  <th scope="row">{linkName(link.name, trans)}</th>
                  <td>{linkState(link.state, trans)}</td>
                  <td lang="en">{link.reason}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </>
      )}
    </Asked>
  );
}
