import { connect } from 'node:net';
import { afterEach, describe, expect, test } from '@jest/globals';
import { judge, report } from '../../agent/http/judge.ts';
import { formatMetrics } from '../../agent/http/metrics.ts';
import { type StatusServer, startStatusServer } from '../../agent/http/server.ts';
import type { StatusSnapshot } from '../../agent/http/status.ts';
import { silentLogger } from '../../core/logging/logger.ts';

const now = Date.UTC(2026, 10, 23, 10, 15) * 1000;
const second = 1_000_000;
const hour = 3600 * second;

function status(change: Partial<StatusSnapshot> = {}): StatusSnapshot {
  const archive = {
    state: 'following' as const,
    next: 99,
    lastCommitMicros: now - 5 * second,
    completeThroughMicros: now - 1.5 * second,
    snapshotId: '20261123T091500Z-1f2e3d4c',
    snapshotMicros: now - hour,
    windowMicros: now - 24 * hour,
    prunedMicros: now - hour,
  };
  return {
    version: '0.1.0',
    from: 'agent',
    source: 'agama',
    atMicros: now,
    agentStartedMicros: now - 10 * hour,
    capture: {
      state: 'running',
      file: 'binlog.000042',
      position: 4711,
      generation: 1,
      sourceUuid: '3e11fa47-71ca-11e1-9e33-c80aa9429562',
      transactions: 12,
      bytes: 3456,
    },
    upkeep: [],
    standby: null,
    mysql: true,
    services: [],
    metricsPush: null,
    log: {
      name: 'local log /var/lib/qazyna/log',
      first: 90,
      next: 100,
      bytes: 1000,
      maxBytes: 100_000,
      lastCommitMicros: now - 5 * second,
      completeThroughMicros: now - 0.5 * second,
    },
    archives: [
      { ...archive, name: 'onsite', url: 'file:///srv/qazyna', failureDomain: 'same_host' },
      {
        ...archive,
        name: 'offsite',
        url: 'file:///mnt/offsite',
        failureDomain: 'other_host',
        completeThroughMicros: now - 2 * second,
      },
    ],
    snapshots: {
      engine: 'clone',
      everyMs: 6 * 3_600_000,
      running: false,
      lastId: archive.snapshotId,
      lastFinishedMicros: now - hour,
    },
    acknowledgeAfter: 'none',
    rpoZero: false,
    alarms: [],
    ...change,
  };
}

function archives(change: Partial<StatusSnapshot['archives'][number]>): Partial<StatusSnapshot> {
  return { archives: status().archives.map((archive, index) => (index === 1 ? { ...archive, ...change } : archive)) };
}

const alarm = {
  topic: 'capture',
  code: 'QZ3210',
  sentence: 'binlog.000001 was purged.',
  hint: 'timeline new',
  sinceMs: 0,
};

describe('all is well', () => {
  test('in words, with the worst lag of the archives', () => {
    expect(judge(status())).toEqual({
      attention: [],
      firstLine:
        'All is well: agama is captured and in 2 archives, 2.00 s behind at most; the last snapshot is 1 h 00 m old.',
      ifHostVanished:
        'If this host vanished now you would lose at most the last 2.00 s: offsite holds everything up to 2026-11-23T10:14:58.000000Z, and no commit since then has been seen.',
    });
    expect(report(status()).wellBeing).toBe('well');
  });

  test('but a log that nothing could be appended to does not say that no commit came', () => {
    const stuck = status({
      log: {
        ...(status().log ?? never()),
        completeThroughMicros: now - 30 * second,
        lastCommitMicros: now - 30 * second,
      },
    });
    expect(judge(stuck).ifHostVanished).toMatch(/holds everything up to 2026-11-23T10:14:58.000000Z\.$/);
  });

  test('a source that is idle for hours is not behind', () => {
    const idle = status({ log: null, ...archives({ lastCommitMicros: now - 9 * hour }) });
    expect(judge(idle).attention).toEqual([]);
  });
});

describe('what needs attention', () => {
  test.each<[string, Partial<StatusSnapshot>, string]>([
    ['an alarm', { alarms: [alarm] }, 'QZ3210'],
    ['an agent that does not answer', { from: 'files', capture: null }, 'QZ4901'],
    ['a capture that is paused', { capture: { ...(status().capture ?? never()), state: 'paused' } }, 'QZ4902'],
    ['a log that is nearly full', { log: { ...(status().log ?? never()), bytes: 90_000 } }, 'QZ4903'],
    [
      'stamps from the future',
      { log: { ...(status().log ?? never()), completeThroughMicros: now + 6 * second } },
      'QZ4911',
    ],
    ['a service’s arrivals from the future', { services: [aheadService()] }, 'QZ4916'],
    ['an archive that is away', archives({ state: 'unreachable' }), 'QZ4904'],
    ['an archive without history', archives({ state: 'empty' }), 'QZ4905'],
    [
      'an archive that is behind',
      archives({ completeThroughMicros: now - 40 * second, lastCommitMicros: now - 31 * second }),
      'QZ4906',
    ],
    [
      'no snapshot yet',
      { agentStartedMicros: now - hour, snapshots: { ...status().snapshots, running: true, lastFinishedMicros: 0 } },
      'QZ4907',
    ],
    ['no snapshot at all', { snapshots: { ...status().snapshots, lastFinishedMicros: 0 } }, 'QZ4908'],
    ['an old snapshot', { snapshots: { ...status().snapshots, lastFinishedMicros: now - 14 * hour } }, 'QZ4909'],
  ])('%s', (_, change, code) => {
    const { attention, firstLine } = judge(status(change));
    expect(attention.map((each) => each.code)).toEqual([code]);
    expect(firstLine).toBe(`ATTENTION: ${attention[0]?.sentence}`);
    expect(report(status(change)).wellBeing).toBe('attention');
  });

  test('an alarm speaks for its topic: nothing is said twice', () => {
    const paused = status({ alarms: [alarm], capture: { ...(status().capture ?? never()), state: 'stopped' } });
    expect(judge(paused).attention).toHaveLength(1);
    const away = status({ ...archives({ state: 'unreachable' }), alarms: [{ ...alarm, topic: 'archive:offsite' }] });
    expect(judge(away).attention).toHaveLength(1);
  });

  test('a service that is looked at: what nobody has seen yet is no lag of an archive, and after a minute it is said', () => {
    const seenAgo = (age: number, archiveAge = age + 2) => {
      const copy = { next: 9, lastCommitMicros: now - hour, completeThroughMicros: now - archiveAge * second };
      const archives = status().archives.map((archive) => ({ ...archive, ...copy }));
      const [kind, name, state] = ['grafana', 'main', 'running' as const];
      const rest = { log: null, snapshots: { everyMs: 0, running: false }, counters: {} };
      return status({ services: [{ kind, name, state, archives, seenMicros: now - age * second, ...rest }] });
    };
    const codes = (one: StatusSnapshot) => judge(one).attention.map(({ code }) => code);
    expect([codes(seenAgo(12)), codes(seenAgo(45)), codes(seenAgo(12, 50))]).toEqual([[], [], ['QZ4906', 'QZ4906']]);
    expect(judge(seenAgo(75)).attention).toEqual([
      expect.objectContaining({
        code: 'QZ4913',
        sentence: 'What was changed in grafana main during the last 1 m 15 s may not have been seen yet.',
      }),
    ]);
    expect(codes({ ...seenAgo(75), alarms: [{ ...alarm, topic: 'grafana.main:server' }] })).toEqual(['QZ3210']);
    expect(formatMetrics(seenAgo(12), 1)).toContain(
      '\nqazyna_service_seen_age_seconds{source="agama",service="grafana.main"} 12\n',
    );
  });

  test('the first line says how much more there is', () => {
    const bad = status({ alarms: [alarm], ...archives({ state: 'unreachable' }) });
    expect(judge(bad).firstLine).toBe('ATTENTION: binlog.000001 was purged. (and 1 more below)');
  });
});

describe('if this host vanished', () => {
  test('what is in the log but not yet in the archive is not called safe', () => {
    const busy = status({ log: { ...(status().log ?? never()), lastCommitMicros: now - second } });
    expect(judge(busy).ifHostVanished).toMatch(
      /at most the last 2\.00 s: offsite holds everything up to 2026-11-23T10:14:58\.000000Z\.$/,
    );
  });

  test('an archive on this host saves nothing, and that is said', () => {
    const here = status({ archives: status().archives.slice(0, 1) });
    expect(judge(here).ifHostVanished).toMatch(
      /everything that lies on it.*failure_domain: other_host.*at most the last 1\.50 s: onsite/,
    );
  });

  test('an archive without snapshot saves nothing', () => {
    expect(judge(status(archives({ snapshotMicros: 0, snapshotId: '' }))).ifHostVanished).toMatch(
      /lose everything: none/,
    );
  });

  test('RPO 0 is claimed only for the archive that acknowledges, while it is measured', () => {
    const zero = { acknowledgeAfter: 'offsite', rpoZero: true };
    expect(judge(status(zero)).ifHostVanished).toMatch(/lose nothing/);
    expect(judge(status({ ...zero, rpoZero: false })).ifHostVanished).toMatch(/at most the last/);
    expect(judge(status({ ...zero, acknowledgeAfter: 'onsite' })).ifHostVanished).toMatch(/at most the last/);
    const [onsite = never(), offsite = never()] = status().archives;
    const further = { ...onsite, failureDomain: 'other_host' as const };
    expect(judge(status({ ...zero, archives: [further, offsite] })).ifHostVanished).toMatch(/lose nothing.*in offsite/);
  });
});

/** Captured while the clock was an hour ahead. */
function aheadService(): StatusSnapshot['services'][number] {
  const log = { ...(status().log ?? never()), lastCommitMicros: now + hour };
  const snapshots = { everyMs: hour / 1000, running: false };
  return {
    kind: 'influxdb',
    name: 'syslog',
    state: 'running',
    log,
    archives: [],
    snapshots,
    counters: {},
    seenMicros: null,
  };
}

function never(): never {
  throw new Error('the template has it');
}

describe('metrics', () => {
  test('are well-formed, each with help and type, and say what the status says', () => {
    const text = formatMetrics(status({ alarms: [alarm] }), 50_000_000);
    const seen = new Set<string>();
    for (const line of text.trimEnd().split('\n')) {
      const comment = /^# (HELP|TYPE) (qazyna_[a-z_]+) .+$/.exec(line);
      if (comment) {
        seen.add(`${comment[1]} ${comment[2]}`);
        continue;
      }
      const sample = /^(qazyna_[a-z_]+)\{source="agama"(,[a-z]+="[^"]*")*\} -?[\d.]+(e[+-]?\d+)?$/.exec(line);
      expect([line, sample?.[1]]).toEqual([line, expect.any(String)]);
      expect(seen).toContain(`HELP ${sample?.[1]}`);
      expect(seen).toContain(`TYPE ${sample?.[1]}`);
    }
    expect(text).toContain('\nqazyna_archive_lag_seconds{source="agama",archive="offsite"} 2\n');
    expect(text).toContain('\nqazyna_archive_entries_behind{source="agama",archive="onsite"} 1\n');
    expect(text).toContain('\nqazyna_alarm{source="agama",topic="capture",code="QZ3210"} 1\n');
    expect(text).toContain('\nqazyna_well{source="agama"} 0\n');
  });

  test('leave out what is not known, and escape what would break a line', () => {
    const text = formatMetrics(status({ source: 'a"b\\c\nd', capture: null, log: null }), 1);
    expect(text).not.toContain('qazyna_log_bytes');
    expect(text).toContain('qazyna_well{source="a\\"b\\\\c\\nd"} 1');
  });
});

describe('the endpoint', () => {
  let server: StatusServer | null = null;
  afterEach(async () => {
    await server?.close();
    server = null;
  });

  async function start(give: () => StatusSnapshot | Promise<StatusSnapshot> = () => status()): Promise<string> {
    server = await startStatusServer({ listen: { host: '127.0.0.1', port: 0 }, status: give, logger: silentLogger() });
    return `http://127.0.0.1:${server.address.port}`;
  }

  test('answers status, health and metrics', async () => {
    const url = await start();
    const whole = await fetch(`${url}/status`);
    expect([whole.status, whole.headers.get('content-type')]).toEqual([200, 'application/json']);
    expect(await whole.json()).toEqual(JSON.parse(JSON.stringify(report(status()))));
    expect((await fetch(`${url}/health`)).status).toBe(200);
    expect(await (await fetch(`${url}/metrics?x=1`)).text()).toContain('qazyna_well{source="agama"} 1');
    expect((await fetch(`${url}/status`, { method: 'HEAD' })).status).toBe(200);
  });

  test('health is 503 when something needs attention, with the reason', async () => {
    const url = await start(() => status({ alarms: [alarm] }));
    const health = await fetch(`${url}/health`);
    expect([health.status, await health.text()]).toEqual([503, 'ATTENTION: binlog.000001 was purged.\n']);
  });

  test('nothing else is served, and a status that fails is no crash', async () => {
    const url = await start(() => Promise.reject(new Error('the secret is hunter2')));
    expect((await fetch(`${url}/../etc/passwd`)).status).toBe(404);
    expect((await fetch(`${url}/status`, { method: 'POST', body: 'x' })).status).toBe(405);
    const failed = await fetch(`${url}/status`);
    expect([failed.status, await failed.text()]).toEqual([503, 'The status is not available just now.\n']);
  });

  test('hostile requests are cut off, and the next one is served', async () => {
    const url = await start();
    const port = Number(new URL(url).port);
    const answers = await Promise.all(
      ['\0\0\0\0\r\n\r\n', `GET / HTTP/1.1\r\nx: ${'y'.repeat(20_000)}\r\n\r\n`].map((bytes) => raw(port, bytes)),
    );
    expect(answers[0]).toMatch(/^HTTP\/1\.1 400/);
    expect(answers[1]).toMatch(/^HTTP\/1\.1 431/);
    expect((await fetch(`${url}/health`)).status).toBe(200);
  });

  test('close does not wait for clients that hold on', async () => {
    const url = await start();
    const held = connect(Number(new URL(url).port), '127.0.0.1');
    held.on('error', () => {});
    await new Promise((resolve) => held.write('GET /health HTTP/1.1\r\n', resolve));
    await fetch(`${url}/health`);
    const began = performance.now();
    await server?.close();
    server = null;
    expect(performance.now() - began).toBeLessThan(2000);
    held.destroy();
    await expect(fetch(`${url}/health`)).rejects.toThrow();
  });

  test('an address that is taken is a configuration error that names it', async () => {
    const url = await start();
    const listen = { host: '127.0.0.1', port: Number(new URL(url).port) };
    const second = startStatusServer({ listen, status, logger: silentLogger() });
    await expect(second).rejects.toMatchObject({
      code: 'QZ2901',
      message: expect.stringContaining(String(listen.port)),
    });
  });
});

function raw(port: number, bytes: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => socket.write(bytes));
    let answer = '';
    socket.setTimeout(10_000, () => socket.destroy(new Error('not cut off')));
    socket.on('data', (data) => (answer += data.toString('latin1')));
    socket.on('error', reject);
    socket.on('close', () => resolve(answer));
  });
}
