/** From the numbers to words: is all well, what needs attention, and what would be lost if this host vanished now. */
import { formatBytes, formatDuration, formatInstant } from '../../core/progress/format.ts';
import {
  type ArchiveStatus,
  type Attention,
  ageMs,
  attentionLagMs,
  attentionSeenMs,
  clockToleranceMs,
  type Judgement,
  lagMs,
  type ServiceStatus,
  type StatusReport,
  type StatusSnapshot,
} from './status.ts';
import { upkeepProblems } from './upkeep.ts';

export function report(status: StatusSnapshot): StatusReport {
  const judgement = judge(status);
  return { ...status, wellBeing: judgement.attention.length === 0 ? 'well' : 'attention', ...judgement };
}

export function judge(status: StatusSnapshot): Judgement {
  const attention = [
    ...agentAttention(status),
    ...clockAttention(status),
    ...copyAttention(status),
    ...upkeepAttention(status),
    ...(status.mysql ? snapshotAttention(status) : []),
    ...status.services.flatMap((service) => serviceAttention(status, service)),
  ];
  return { attention, firstLine: firstLine(status, attention), ifHostVanished: ifHostVanished(status) };
}

function firstLine(status: StatusSnapshot, attention: readonly Attention[]): string {
  const first = attention[0];
  if (first) {
    const more = attention.length === 1 ? '' : ` (and ${attention.length - 1} more below)`;
    return `ATTENTION: ${first.sentence}${more}`;
  }
  if (!status.mysql) return `All is well: ${status.services.map(serviceName).join(', ')} of ${status.source}.`;
  const lags = status.archives.map((archive) => lagMs(status, archive) ?? 0);
  const snapshot = ageMs(status, status.snapshots.lastFinishedMicros);
  return [
    `All is well: ${status.source} is captured and in ${count(status.archives.length, 'archive')},`,
    `${formatDuration(Math.max(...lags))} behind at most; the last snapshot is ${snapshot === null ? 'not known' : `${formatDuration(snapshot)} old`}.`,
  ].join(' ');
}

function agentAttention(status: StatusSnapshot): Attention[] {
  const found: Attention[] = status.alarms.map(({ code, sentence, hint }) => ({ code, sentence, hint }));
  const alarmed = new Set(status.alarms.map(({ topic }) => topic));
  if (status.from === 'files')
    found.push({
      code: 'QZ4901',
      sentence: `The agent of ${status.source} does not answer, so nothing may be captured right now.`,
      hint: 'Look with `systemctl status qazyna` and start it; if it runs, check that http.listen is the same in its configuration.',
    });
  else if (status.capture && status.capture.state !== 'running' && !alarmed.has('capture'))
    found.push({
      code: 'QZ4902',
      sentence: `Capture of ${status.source} is ${status.capture.state}, not running.`,
      hint: 'Just after a start this passes by itself; else the log of the agent says why.',
    });
  if (status.log && status.log.maxBytes > 0 && status.log.bytes > 0.8 * status.log.maxBytes && !alarmed.has('log'))
    found.push({
      code: 'QZ4903',
      sentence: `The log holds ${formatBytes(status.log.bytes)} of at most ${formatBytes(status.log.maxBytes)}; when it is full, capture pauses.`,
      hint: 'An archive is behind or unreachable: see the table. The log shrinks once every archive holds what it holds.',
    });
  return found;
}

/** A stamp from the future hides every lag until that instant has come: what is behind looks up to date. */
function clockAttention(status: StatusSnapshot): Attention[] {
  const aheadMs = newestAheadMs(status, status);
  if (aheadMs <= clockToleranceMs) return [];
  return [
    {
      code: 'QZ4911',
      sentence: `The source has stamped commits ${formatDuration(aheadMs)} ahead of this host’s clock: until then a lag of an archive cannot be seen in time.`,
      hint: 'Set the clocks of both hosts by NTP. Restores stay exact: a commit stamped ahead hides those behind it from earlier instants, and `qazyna plan` names them; restore to a GTID instead.',
    },
  ];
}

/** How far the newest stamp in log and archives is ahead of this host's clock. */
function newestAheadMs(
  { atMicros }: StatusSnapshot,
  { log, archives }: Pick<StatusSnapshot | ServiceStatus, 'log' | 'archives'>,
): number {
  const copies = log === null ? archives : [log, ...archives];
  const newest = Math.max(0, ...copies.map((copy) => Math.max(copy.completeThroughMicros, copy.lastCommitMicros)));
  return (newest - atMicros) / 1000;
}

function copyAttention(status: StatusSnapshot): Attention[] {
  const alarmed = new Set(status.alarms.map(({ topic }) => topic));
  return status.archives
    .filter((archive) => !alarmed.has(`archive:${archive.name}`))
    .flatMap((archive) => archiveAttention(status, archive, status.source));
}

/** A service has log, archives and alarms of its own; its alarms are told with the others. */
function serviceAttention(status: StatusSnapshot, service: ServiceStatus): Attention[] {
  const name = serviceName(service);
  const alarmed = new Set(status.alarms.map(({ topic }) => topic));
  const found = service.archives
    .filter((archive) => !alarmed.has(`${service.kind}.${service.name}:archive:${archive.name}`))
    .flatMap((archive) => archiveAttention(status, archive, name, unseenMs(status, service)));
  const aheadMs = newestAheadMs(status, service);
  if (aheadMs > clockToleranceMs)
    found.push({
      code: 'QZ4916',
      sentence: `The history of ${name} is stamped ${formatDuration(aheadMs)} ahead of this host’s clock, which was set back: until then it cannot be restored to an instant since, only to latest.`,
      hint: 'Keep the clock of this host right by NTP. What comes in is captured all the same.',
    });
  if (status.alarms.some(({ topic }) => topic.startsWith(`${service.kind}.${service.name}:`))) return found;
  if (service.state === 'running') return [...seenAttention(status, service), ...found];
  if (service.state === 'watched') return found;
  const sentence = `The capture of ${name} is ${service.state}, not running.`;
  const hint = 'Just after a start this passes by itself; else the log of the agent says why.';
  return [{ code: 'QZ4912', sentence, hint }, ...found];
}

/** An archive is not behind by what nobody has seen yet. */
function unseenMs(status: StatusSnapshot, { seenMicros }: ServiceStatus): number {
  return seenMicros === null ? 0 : (ageMs(status, seenMicros) ?? 0);
}

function seenAttention(status: StatusSnapshot, service: ServiceStatus): Attention[] {
  const age = unseenMs(status, service);
  if (age <= attentionSeenMs) return [];
  return [
    {
      code: 'QZ4913',
      sentence: `What was changed in ${serviceName(service)} during the last ${formatDuration(age)} may not have been seen yet.`,
      hint: 'It holds so much, or answers so slowly, that asking for all of it takes this long (ops/README.md, “How much it asks”); what was seen is archived.',
    },
  ];
}

function serviceName({ kind, name }: { kind: string; name: string }): string {
  return `${kind} ${name}`;
}

/** `unseen` (ms): so much of its lag is not the archive's. */
function archiveAttention(status: StatusSnapshot, archive: ArchiveStatus, what: string, unseen = 0): Attention[] {
  const { name, url } = archive;
  if (archive.state === 'unreachable')
    return [
      {
        code: 'QZ4904',
        sentence: `The archive ${name} (${url}) cannot be reached.`,
        hint: 'Mount it or mend its path; what is missing there follows from the log by itself.',
      },
    ];
  if (archive.state === 'empty')
    return [
      {
        code: 'QZ4905',
        sentence: `The archive ${name} (${url}) holds nothing of ${what} yet.`,
        hint: 'Just after a first start this passes by itself; else the log of the agent says why.',
      },
    ];
  const lag = lagMs(status, archive);
  if (lag === null || lag - unseen <= attentionLagMs) return [];
  return [
    {
      code: 'QZ4906',
      sentence: `The archive ${name} is ${formatDuration(lag)} behind.`,
      hint: 'It catches up by itself when it can be written fast enough; the log of the agent says what stops it.',
    },
  ];
}

/** A daemon raises the same as alarms. */
function upkeepAttention(status: StatusSnapshot): Attention[] {
  const alarmed = new Set(status.alarms.map(({ topic }) => topic));
  return status.upkeep
    .flatMap((archive) => upkeepProblems(status.atMicros, archive))
    .filter(({ topic }) => !alarmed.has(topic))
    .map(({ code, sentence, hint }) => ({ code, sentence, hint }));
}

function snapshotAttention(status: StatusSnapshot): Attention[] {
  const { snapshots } = status;
  if (status.alarms.some(({ topic }) => topic.startsWith('snapshot'))) return [];
  const age = ageMs(status, snapshots.lastFinishedMicros);
  if (age === null)
    return snapshots.running &&
      status.from === 'agent' &&
      (ageMs(status, status.agentStartedMicros) ?? 0) < snapshots.everyMs
      ? [
          {
            code: 'QZ4907',
            sentence: 'The first snapshot is still being taken: nothing can be restored before it is complete.',
            hint: 'Wait for it.',
          },
        ]
      : [
          {
            code: 'QZ4908',
            sentence: 'There is no complete snapshot: nothing can be restored.',
            hint: 'Take one with `qazyna snapshot take`; it says what stops it.',
          },
        ];
  if (snapshots.everyMs === 0 || age <= 2 * snapshots.everyMs + 3_600_000) return [];
  return [
    {
      code: 'QZ4909',
      sentence: `The last snapshot is ${formatDuration(age)} old, although one is due every ${formatDuration(snapshots.everyMs)}.`,
      hint: 'Restores still work but replay more; take one with `qazyna snapshot take`, it says what stops it.',
    },
  ];
}

/** A source where nothing happens says so every second (agent/capture). */
const currentWithinMs = 5000;

/** Counts only what is declared to outlive the host; says so when nothing is. */
function ifHostVanished(status: StatusSnapshot): string {
  const start = 'If this host vanished now you would lose';
  if (!status.mysql) return `${start} ${servicesLoss(status)}`;
  if (status.rpoZero && status.acknowledgeAfter === 'log' && status.log !== null)
    return `${start} nothing: every commit is in the ${status.log.name} before its client hears of it.`;
  const elsewhere = status.archives.filter(({ failureDomain }) => failureDomain === 'other_host');
  const awaited = elsewhere.find(({ name, snapshotMicros }) => name === status.acknowledgeAfter && snapshotMicros > 0);
  if (status.rpoZero && awaited !== undefined)
    return `${start} nothing: every commit is in ${awaited.name} before its client hears of it.`;
  if (elsewhere.length > 0) return `${start} ${loss(status, elsewhere)}`;
  const best = loss(status, status.archives);
  return `${start} everything that lies on it, and no archive is declared to lie elsewhere (failure_domain: other_host); from an archive on a disk that survives: ${best}`;
}

/** Of each service what no archive elsewhere holds. */
function servicesLoss(status: StatusSnapshot): string {
  const each = status.services.map((service) => {
    const elsewhere = service.archives.filter(({ failureDomain }) => failureDomain === 'other_host');
    const lags = elsewhere.flatMap((archive) => lagMs(status, archive) ?? []);
    const name = serviceName(service);
    return lags.length === 0
      ? `everything of ${name}`
      : `at most the last ${formatDuration(Math.min(...lags))} of ${name}`;
  });
  return `${each.join(', ')}.`;
}

function loss(status: StatusSnapshot, archives: readonly ArchiveStatus[]): string {
  const known = archives
    .filter(({ snapshotMicros }) => snapshotMicros > 0)
    .map((archive) => ({ archive, through: Math.max(archive.completeThroughMicros, archive.lastCommitMicros) }))
    .sort((a, b) => b.through - a.through)[0];
  if (!known) return 'everything: none of these archives holds a complete snapshot yet.';
  const behind = ageMs(status, known.through);
  if (behind === null)
    return `what came after its snapshot of ${formatInstant(known.archive.snapshotMicros)}: ${known.archive.name} holds no history yet.`;
  const { log } = status;
  // A log that is itself behind the present has not seen what came since.
  const isLogCurrent = log !== null && (lagMs(status, log) ?? Number.POSITIVE_INFINITY) <= currentWithinMs;
  const idle = isLogCurrent && known.archive.lastCommitMicros >= log.lastCommitMicros;
  const seen = idle ? ', and no commit since then has been seen' : '';
  return `at most the last ${formatDuration(behind)}: ${known.archive.name} holds everything up to ${formatInstant(known.through)}${seen}.`;
}

function count(number: number, word: string): string {
  return `${number} ${word}${number === 1 ? '' : 's'}`;
}
