/** The usage behind an amount, and the proof behind a usage. */
import * as React from 'react';
import { dateTime, useEnv } from './env';
import { Amount, Asked, Modal } from './parts';
import type { Usage } from './shapes';
import { linkName, linkState, resourceName } from './words';

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
  if (usage.count === 0) {
    return <p>{trans.__('Nothing was used.')}</p>;
  }
  return (
    <>
      <p>
        {trans.__('%1 records, together', usage.count)} <Amount wei={usage.total_wei} exact />
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
              <th scope="col">{trans.__('amount')}</th>
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
                <td>
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
