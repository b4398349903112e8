/** The status in Prometheus' text format 0.0.4 (https://prometheus.io/docs/instrumenting/exposition_formats/). */
import { judge } from './judge.ts';
import {
  type ArchiveStatus,
  type ArchiveUpkeep,
  ageMs,
  lagMs,
  type ServiceStatus,
  type StatusSnapshot,
} from './status.ts';

export const metricsContentType = 'text/plain; version=0.0.4; charset=utf-8';

type Labels = Readonly<Record<string, string>>;
type Sample = readonly [labels: Labels, value: number | null];

export interface Metric {
  name: string;
  help: string;
  type: 'gauge' | 'counter';
  samples: readonly Sample[];
}

/** A value that is not known is left out, so that an alert on its absence can tell it from zero. */
export function formatMetrics(status: StatusSnapshot, rssBytes: number): string {
  const source = { source: status.source };
  return metricsOf(status, rssBytes)
    .map(({ name, help, type, samples }) => {
      const lines = samples.flatMap(([labels, value]) =>
        value === null ? [] : `qazyna_${name}${formatLabels({ ...source, ...labels })} ${value}\n`,
      );
      return lines.length === 0
        ? ''
        : `# HELP qazyna_${name} ${help}\n# TYPE qazyna_${name} ${type}\n${lines.join('')}`;
    })
    .join('');
}

/** All of them, without the label of the source. */
export function metricsOf(status: StatusSnapshot, rssBytes: number): Metric[] {
  const gauge = (name: string, help: string, ...samples: Sample[]): Metric => ({ name, help, type: 'gauge', samples });
  const counter = (name: string, help: string, value: number | null): Metric => ({
    name,
    help,
    type: 'counter',
    samples: [[{}, value]],
  });
  const { capture, log, archives, snapshots, alarms } = status;
  const each = (value: (archive: (typeof archives)[number]) => number | null): Sample[] =>
    archives.map((archive) => [{ archive: archive.name }, value(archive)]);
  return [
    gauge('build_info', 'Always 1; the version is a label.', [{ version: status.version }, 1]),
    gauge('well', '1 when nothing needs attention.', [{}, judge(status).attention.length === 0 ? 1 : 0]),
    gauge('capture_running', '1 while the binlog is being read.', [
      {},
      capture ? Number(capture.state === 'running') : null,
    ]),
    gauge('timeline_generation', 'Number of the timeline that is being captured.', [{}, capture?.generation ?? null]),
    counter(
      'captured_transactions_total',
      'Transactions captured since the agent started.',
      capture?.transactions ?? null,
    ),
    counter('captured_bytes_total', 'Binlog bytes captured since the agent started.', capture?.bytes ?? null),
    gauge('log_bytes', 'Bytes that the log occupies.', [{}, log?.bytes ?? null]),
    gauge('log_max_bytes', 'Bytes at which capture pauses; absent where nothing of the kind does.', [
      {},
      log?.maxBytes || null,
    ]),
    gauge('log_lag_seconds', 'How far the log is behind the present.', [{}, log ? seconds(lagMs(status, log)) : null]),
    gauge('log_last_commit_timestamp_seconds', 'Commit time of the newest transaction in the log.', [
      {},
      log ? instant(log.lastCommitMicros) : null,
    ]),
    gauge(
      'archive_reachable',
      '1 while the archive can be read and written.',
      ...each(({ state }) => Number(state !== 'unreachable')),
    ),
    gauge(
      'archive_lag_seconds',
      'How far the archive is behind the present.',
      ...each((archive) => seconds(lagMs(status, archive))),
    ),
    gauge(
      'archive_last_commit_timestamp_seconds',
      'Commit time of the newest transaction in the archive.',
      ...each(({ lastCommitMicros }) => instant(lastCommitMicros)),
    ),
    gauge(
      'archive_entries_behind',
      'Log entries that the archive does not hold yet.',
      ...each(({ next }) => (log ? Math.max(0, log.next - next) : null)),
    ),
    gauge(
      'archive_snapshot_age_seconds',
      'Age of the newest complete snapshot in the archive.',
      ...each(({ snapshotMicros }) => seconds(ageMs(status, snapshotMicros))),
    ),
    gauge(
      'archive_window_seconds',
      'How far back every instant can be restored.',
      ...each(({ windowMicros }) => seconds(ageMs(status, windowMicros))),
    ),
    gauge(
      'archive_prune_age_seconds',
      'How long ago retention looked at the archive; absent where it never did.',
      ...each(({ prunedMicros }) => seconds(ageMs(status, prunedMicros))),
    ),
    ...upkeepMetrics(status),
    gauge('snapshot_running', '1 while a snapshot is being taken.', [{}, Number(snapshots.running)]),
    gauge('snapshot_age_seconds', 'Age of the newest snapshot that is complete in every archive.', [
      {},
      seconds(ageMs(status, snapshots.lastFinishedMicros)),
    ]),
    gauge('rpo_zero', '1 while no acknowledged commit can be lost with this host.', [{}, Number(status.rpoZero)]),
    gauge('alarms', 'Number of alarms that are up.', [{}, alarms.length]),
    gauge('alarm', '1 for each alarm that is up.', ...alarms.map(({ topic, code }): Sample => [{ topic, code }, 1])),
    ...serviceMetrics(status),
    counter('metrics_sent_total', 'Points of metrics that InfluxDB took.', status.metricsPush?.sentPoints ?? null),
    counter('metrics_dropped_total', 'Points of metrics that were dropped.', status.metricsPush?.droppedPoints ?? null),
    gauge('process_start_timestamp_seconds', 'When the agent started.', [{}, instant(status.agentStartedMicros)]),
    gauge('process_resident_memory_bytes', 'Memory of the agent.', [{}, rssBytes]),
  ];
}

/** Whether what is kept can be trusted. */
function upkeepMetrics(status: StatusSnapshot): Metric[] {
  const gauge = (name: string, help: string, value: (archive: ArchiveUpkeep) => number | null): Metric => ({
    name,
    help,
    type: 'gauge',
    samples: status.upkeep.map((archive): Sample => [{ archive: archive.name }, value(archive)]),
  });
  const age = (micros: number | undefined) => seconds(ageMs(status, micros ?? 0));
  return [
    gauge('archive_verified_age_seconds', 'Age of the last verification of the archive.', ({ verified }) =>
      age(verified?.atMicros),
    ),
    gauge('archive_verified_full_age_seconds', 'Age of the last one that read all of it.', ({ verifiedFullMicros }) =>
      age(verifiedFullMicros),
    ),
    gauge(
      'archive_damaged_objects',
      'Objects that the last verification found missing or damaged.',
      ({ verified }) => verified?.damaged ?? null,
    ),
    gauge(
      'archive_stored_bytes',
      'Bytes in the archive at its last verification.',
      ({ stored }) => stored?.bytes ?? null,
    ),
    gauge(
      'archive_stored_objects',
      'Objects in the archive at its last verification.',
      ({ stored }) => stored?.objects ?? null,
    ),
    gauge(
      'archive_day_bytes',
      'What a day adds to the archive, history and snapshots: the mean of the last whole days at its last verification.',
      ({ stored }) => (stored?.aDay ? stored.aDay.historyBytes + stored.aDay.snapshotBytes : null),
    ),
    gauge('drill_age_seconds', 'Age of the last drill from the archive.', ({ drilled }) => age(drilled?.atMicros)),
    gauge('drill_good_age_seconds', 'Age of the last drill from the archive that was good.', ({ drilledGoodMicros }) =>
      age(drilledGoodMicros),
    ),
    gauge('drill_good', '1 when the last drill from the archive was good.', ({ drilled }) =>
      drilled === null ? null : Number(drilled.good),
    ),
    gauge('drill_restore_seconds', 'How long its restore took until the server answered.', ({ drilled }) =>
      drilled === null ? null : seconds(drilled.restoreMs),
    ),
  ];
}

/** Of the services beside MySQL: the same of each, and each kind's own counters. */
function serviceMetrics(status: StatusSnapshot): Metric[] {
  const { services } = status;
  const labels = ({ kind, name }: ServiceStatus): Labels => ({ service: `${kind}.${name}` });
  const of = (value: (service: ServiceStatus) => number | null) =>
    services.map((service): Sample => [labels(service), value(service)]);
  const archives = (value: (archive: ArchiveStatus) => number | null) =>
    services.flatMap((service) =>
      service.archives.map((archive): Sample => [{ ...labels(service), archive: archive.name }, value(archive)]),
    );
  const gauge = (name: string, help: string, samples: Sample[]): Metric => ({ name, help, type: 'gauge', samples });
  const names = new Set(
    services.flatMap(({ kind, counters }) => Object.keys(counters).map((name) => `${kind}_${name}`)),
  );
  const counters = [...names].map((name): Metric => {
    const samples = services.flatMap((service): Sample[] => {
      const value = service.counters[name.slice(service.kind.length + 1)];
      return value === undefined || !name.startsWith(`${service.kind}_`) ? [] : [[labels(service), value]];
    });
    return { name, help: 'A number of this service since the agent started.', type: 'counter', samples };
  });
  return [
    gauge(
      'service_running',
      '1 while the service is captured.',
      of(({ state }) => Number(state === 'running')),
    ),
    gauge(
      'service_seen_age_seconds',
      'All that was changed there longer ago than this was seen; absent where the service itself tells of each change.',
      of(({ seenMicros }) => (seenMicros === null ? null : seconds(ageMs(status, seenMicros)))),
    ),
    gauge(
      'service_log_bytes',
      'Bytes that its log occupies.',
      of(({ log }) => log?.bytes ?? null),
    ),
    gauge(
      'service_log_lag_seconds',
      'How far its log is behind.',
      of(({ log }) => log && seconds(lagMs(status, log))),
    ),
    gauge(
      'service_archive_lag_seconds',
      'How far the archive is behind with it.',
      archives((archive) => seconds(lagMs(status, archive))),
    ),
    gauge(
      'service_archive_snapshot_age_seconds',
      'Age of its newest complete snapshot in the archive.',
      archives(({ snapshotMicros }) => seconds(ageMs(status, snapshotMicros))),
    ),
    ...counters,
  ];
}

function seconds(ms: number | null): number | null {
  return ms === null ? null : ms / 1000;
}

function instant(micros: number): number | null {
  return micros === 0 ? null : micros / 1e6;
}

function formatLabels(labels: Labels): string {
  const pairs = Object.entries(labels).map(([name, value]) => `${name}="${escapeLabel(value)}"`);
  return `{${pairs.join(',')}}`;
}

function escapeLabel(value: string): string {
  return value.replace(/\\/g, '\\\\').replace(/"/g, '\\"').replace(/\n/g, '\\n');
}
