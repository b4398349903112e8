/**
 * Which mysqld may open which data. Facts: MySQL 8.4 and 9.x Reference Manual, "Upgrade Paths" and "Downgrading": within a
 * series forward; LTS to the next LTS or to the innovation releases before it; within an LTS series also backward.
 */
import { configurationError } from '../errors/error.ts';
import type { SnapshotEngine } from '../snapshot/types.ts';

const ltsSeries = new Set(['8.4', '9.7']);

type Version = readonly [major: number, minor: number, patch: number];

/** Throws QZ2603 when `program` cannot take over a snapshot of `snapshot`. Version texts as servers print them. */
export function requireVersion(program: string, snapshot: string, engine: SnapshotEngine): void {
  const have = parse(program);
  const need = parse(snapshot);
  if (have !== null && need !== null && fits(have, need, engine)) return;
  const hint =
    need === null
      ? 'Restore another snapshot.'
      : `Name a mysqld ${need[0]}.${need[1]}.${need[2]} or later of that series with --mysqld PATH.`;
  throw configurationError(
    'QZ2603',
    `mysqld ${program} cannot take over a snapshot of MySQL ${snapshot} (${engine}).`,
    hint,
  );
}

/**
 * Throws QZ2720 when a server of `replica` must not follow one of `source`. Facts: MySQL 8.4 and 9.x Reference Manual,
 * "Replication Compatibility Between MySQL Versions": a replica may be of a later series than its source, never of an earlier one.
 */
export function requireReplica(replica: string, source: string): void {
  const have = parse(replica);
  const need = parse(source);
  if (have === null || need === null || (have[0] - need[0] || have[1] - need[1]) >= 0) return;
  throw configurationError(
    'QZ2720',
    `A server of MySQL ${replica} cannot follow a history that MySQL ${source} writes: no replica may be of an earlier series than its source.`,
    `Install MySQL ${need[0]}.${need[1]} here (or name its mysqld in standby.mysqld), start this daemon again, and then \`qazyna rejoin --reseed\` unless it follows by itself.`,
  );
}

/** Whatever a distribution adds to the number (`9.7.4-2`). */
export function isSameVersion(one: string, other: string): boolean {
  return parse(one)?.join() === parse(other)?.join();
}

function fits(have: Version, need: Version, engine: SnapshotEngine): boolean {
  const order = have[0] - need[0] || have[1] - need[1];
  if (order === 0) return have[2] >= need[2] || engine === 'logical' || ltsSeries.has(`${need[0]}.${need[1]}`);
  if (order < 0) return false;
  // A dump is text: any later server reads it, and load-dump.ts brings the schema `mysql` up to it. Files are upgraded in place, one LTS at a time.
  if (engine === 'logical' || have[0] === need[0]) return true;
  return need[0] === 8 && need[1] === 4 && have[0] === 9;
}

function parse(text: string): Version | null {
  const match = /^(\d+)\.(\d+)\.(\d+)/.exec(text);
  return match === null ? null : [Number(match[1]), Number(match[2]), Number(match[3])];
}
