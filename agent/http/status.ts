/**
 * The state of one protected source as a plain object: what GET /status and `status --json` answer (stable names, a
 * contract). The agent fills it; without a running agent `status` fills in what the archives show.
 *
 * Instants are µs since 1970 UTC, 0 when unknown. Instants of commits are the SOURCE's clock.
 */
import type { Alarm } from '../alarms.ts';

export interface HowFar {
  /** Number of the next entry. */
  next: number;
  /** Commit time of the newest transaction that is complete here. */
  lastCommitMicros: number;
  /** Everything stamped at or before this is here. */
  completeThroughMicros: number;
}

export interface CaptureStatus {
  /** `fenced`: another server is the source by now; the agent holds this one back until it is stopped. */
  state: 'connecting' | 'running' | 'paused' | 'fenced' | 'stopped';
  /** Where capture stands in the source's binlog; '' and 0 before the first. */
  file: string;
  position: number;
  generation: number;
  sourceUuid: string;
  /** How many transactions have been captured since the agent started. */
  transactions: number;
  bytes: number;
}

export interface LogStatus extends HowFar {
  name: string;
  /** Number of the oldest entry still held. */
  first: number;
  bytes: number;
  /** At which capture pauses; 0: it is not bounded by size. */
  maxBytes: number;
}

export interface ArchiveStatus extends HowFar {
  name: string;
  url: string;
  /** `unreachable`: not readable just now; what is said of it is the last that was known. */
  state: 'following' | 'catching up' | 'unreachable' | 'empty';
  failureDomain: 'same_host' | 'other_host';
  /** Of the newest complete snapshot in this archive: its id ('' when there is none) and when it was finished. */
  snapshotId: string;
  snapshotMicros: number;
  /** From this instant on all of it can be restored, as far as is known; 0: nothing can, or it was not looked at yet. */
  windowMicros: number;
  /** When retention looked at it last; 0: never. */
  prunedMicros: number;
}

export interface SnapshotStatus {
  engine: string;
  everyMs: number;
  /** One is being taken now. */
  running: boolean;
  /** The newest one that is complete in every archive; '' when there is none. */
  lastId: string;
  lastFinishedMicros: number;
}

/** A service beside MySQL, with a log and a history of its own. Instants of its writes are the agent's clock. */
export interface ServiceStatus {
  kind: string;
  name: string;
  /** `watched`: another process captures it. */
  state: 'connecting' | 'running' | 'paused' | 'stopped' | 'watched';
  log: LogStatus | null;
  archives: ArchiveStatus[];
  /** All that was changed there before was seen; 0 when unknown, null where the service itself tells of each change. */
  seenMicros: number | null;
  /** `everyMs` 0: it takes none. */
  snapshots: { everyMs: number; running: boolean };
  /** Its own numbers since the start. */
  counters: Readonly<Record<string, number>>;
}

/** One host of a pair, as it sees itself. */
export interface StandbyStatus {
  role: 'starting' | 'filling' | 'standby' | 'promoting' | 'primary' | 'fenced';
  /** It is the primary, and takes writes. */
  isWritable: boolean;
  serverUuid: string;
  replication: 'starting' | 'following' | 'broken';
  /** Transactions of the history that it has not executed yet. */
  behindTransactions: number;
  /** Everything committed on the source up to this is executed here. */
  completeThroughMicros: number;
  /** Last step reached of a promotion that is under way; '' without one. */
  promotion: string;
}

/** Of metrics that are written to an InfluxDB, since the start. */
export interface MetricsPushStatus {
  sentPoints: number;
  /** Refused, or too old when there was no room for them any more. */
  droppedPoints: number;
  waitingPoints: number;
}

/** Whether an archive can be trusted: its last verification and its last drill, by the records in it. */
export interface ArchiveUpkeep {
  name: string;
  /** When the archive was made. */
  createdMicros: number;
  /** 0: not by itself. */
  verifyEveryMs: number;
  /** Null: it was never verified. `damaged`: objects that are missing or damaged; `firstFinding` '' where there is none. */
  verified: { atMicros: number; damaged: number; healed: number; firstFinding: string } | null;
  /** When all of it was read last. */
  verifiedFullMicros: number;
  /** What the archive held when it was verified last, and what a day then added (the mean of the last whole ones). */
  stored: {
    objects: number;
    bytes: number;
    aDay: { historyBytes: number; historyObjects: number; snapshots: number; snapshotBytes: number } | null;
    atMicros: number;
  } | null;
  drillEveryMs: number;
  /** Null: there was no drill. `restoreMs`: until the restored server answered. */
  drilled: { atMicros: number; good: boolean; problem: string; restoreMs: number } | null;
  drilledGoodMicros: number;
}

export interface StatusSnapshot {
  version: string;
  /**
   * `agent`, `shipper`: told by this running daemon. `files`: read from the archives, no daemon was reached; `archive`:
   * none was asked.
   */
  from: 'agent' | 'shipper' | 'standby' | 'files' | 'archive';
  source: string;
  /** When this was put together (this host's clock). */
  atMicros: number;
  agentStartedMicros: number;
  /** Null when not told by an agent. */
  capture: CaptureStatus | null;
  /** Null when not told by a daemon, and while the log was not reached yet. */
  log: LogStatus | null;
  archives: ArchiveStatus[];
  /** Of those that could be looked at so far. */
  upkeep: ArchiveUpkeep[];
  /** Null where `qazyna standby` does not run. */
  standby: StandbyStatus | null;
  /** Whether a MySQL server is protected here at all; if not, only the services are, and all that is said of MySQL is empty. */
  mysql: boolean;
  services: ServiceStatus[];
  /** Null where metrics are only asked for. */
  metricsPush: MetricsPushStatus | null;
  snapshots: SnapshotStatus;
  acknowledgeAfter: string;
  /** All conditions for RPO 0 are measured to hold right now. */
  rpoZero: boolean;
  /** Without one there is nothing to attend to. */
  alarms: Alarm[];
}

/** How far a copy may be behind before that is worth attention: heartbeats come each second, segments close within one. */
export const attentionLagMs = 30_000;
/** What is looked at for changes is as a rule seen whole at least this often. */
export const seenWithinMs = 20_000;
/** Worth attention when it is not for this long. */
export const attentionSeenMs = 60_000;
/** How far the source's clock may be ahead of this host's before that is worth attention. */
export const clockToleranceMs = 5000;

export interface Attention {
  code: string;
  sentence: string;
  hint: string;
}

export interface Judgement {
  attention: readonly Attention[];
  /** `All is well: …` or `ATTENTION: …`. */
  firstLine: string;
  /** `If this host vanished now you would lose …`. */
  ifHostVanished: string;
}

/** What GET /status and `status --json` say: the snapshot and its judgement, one object. */
export type StatusReport = StatusSnapshot & { wellBeing: 'well' | 'attention' } & Judgement;

/** How long ago (ms) `micros` was, at the time of the snapshot; null when unknown. Never negative: clocks differ a little. */
export function ageMs(status: StatusSnapshot, micros: number): number | null {
  return micros === 0 ? null : Math.max(0, (status.atMicros - micros) / 1000);
}

/** By how much a copy is behind the present: 0 only means "as far as is known". Null when nothing is known of it. */
export function lagMs(status: StatusSnapshot, copy: HowFar): number | null {
  return ageMs(status, Math.max(copy.completeThroughMicros, copy.lastCommitMicros));
}
