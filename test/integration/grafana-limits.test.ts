/** A Grafana that limits how often it may be asked (429): waited for by looks and restores, and said only when it lasts. */
import { expect, test } from '@jest/globals';
import { GrafanaStandIn } from '../lab/grafana.ts';
import { RateLimit } from '../lab/grafana-limit.ts';
import { restoring, watching } from './grafana-watching.ts';
import { furnish, save } from './grafana-world.ts';

const isWritten = ({ what }: { what: string }) => !what.startsWith('same');

test.each([
  ['that tells when to come again', 1],
  ['that tells nothing', null],
])(
  'a limit %s ends neither a look nor a restore',
  async (_, retryAfterS) => {
    await using grafana = await GrafanaStandIn.start();
    await furnish(grafana);
    for (let number = 0; number < 10; number += 1) await save(grafana, `d${number}`, { title: `Number ${number}` });
    const limit = new RateLimit(30, retryAfterS);
    using watched = await watching(grafana);
    grafana.faults = { limit };
    expect((await watched.look()).seenMicros).not.toBeNull();
    expect([watched.state.objects.size, limit.refused > 0]).toEqual([22, true]);
    grafana.faults = {};
    await grafana.done('DELETE', '/api/dashboards/uid/d9');
    await save(grafana, 'd8', { title: 'Changed' });
    grafana.faults = { limit };
    expect((await watched.look()).seenMicros).not.toBeNull();
    const { deletions_total } = watched.counters;
    expect([watched.state.get({ org: 1, type: 'dashboard', uid: 'd8' })?.meta.title, deletions_total]).toEqual([
      'Changed',
      1,
    ]);
    const before = limit.refused;
    await using empty = await GrafanaStandIn.start();
    empty.faults = { limit };
    const steps = await restoring(watched.state, empty);
    expect([steps.filter(isWritten).length, steps.filter(({ reason }) => reason !== '')]).toEqual([
      steps.length - 1,
      [],
    ]);
    expect([limit.refused > before, limit.early]).toEqual([true, 0]);
    expect(empty.room().store.dashboards.get('d8')?.versions).toHaveLength(1);
  },
  120_000,
);

test('a limit that lasts ends a look, which takes nothing for deleted, and a restore; the next look goes on', async () => {
  await using grafana = await GrafanaStandIn.start();
  await furnish(grafana);
  const patienceMs = 600;
  using watched = await watching(grafana, { patienceMs });
  await watched.look();
  await save(grafana, 'top', { title: 'Changed' });
  grafana.onRequest = (_, path) => {
    // In the middle of the look.
    if (path.startsWith('/api/dashboards')) grafana.faults = { limit: new RateLimit(0, null) };
  };
  await expect(watched.look()).rejects.toMatchObject({ code: 'QZ4955', kind: 'transient' });
  expect(watched.counters.deletions_total).toBe(0);
  await expect(restoring(watched.state, grafana, {}, { patienceMs })).rejects.toMatchObject({ code: 'QZ4955' });
  grafana.onRequest = () => undefined;
  grafana.faults = {};
  expect((await watched.look()).seenMicros).not.toBeNull();
});
