/**
 * What must hold before capture connects, at the first start and at every reconnect: settings that make capture possible at
 * all, and that the source still has the history that was captured ("Connecting to the source").
 */
import { hostname } from 'node:os';
import { GtidSet } from '../../core/binlog/gtid-set.ts';
import { configurationError, integrityError, transientError } from '../../core/errors/error.ts';
import type { MysqlConnection, MysqlEndpoint } from '../../core/mysql/connection.ts';
import { statementOf } from '../../core/mysql/former-names.ts';
import { type BinlogFile, binlogStatus, readSourceFacts, type SourceFacts } from '../../core/mysql/source-facts.ts';
import { readFileHead, readOpenTransaction, type SourceFileHead } from './file-head.ts';
import { compareFiles } from './file-name.ts';
import type { OpenTransaction, ResumePoint } from './types.ts';

const firstEventAt = 4;
const timelineHint = 'Find out why, then go on with `qazyna timeline new --reason …`: next timeline, new snapshot.';

export interface CaptureStart {
  sourceUuid: string;
  file: string;
  /** Event boundary to dump from, and the first byte not captured yet. */
  boundary: number;
  captured: number;
  /** Null when the file is the first of a chain or timeline: then its Previous_gtids decide. */
  gtids: GtidSet | null;
  /** Executed, but in none of the server's binlogs since they began: part of what each of its files begins with. */
  unlogged: GtidSet;
  headSha256: Buffer;
  prefixCrc: number | null;
  open: OpenTransaction | null;
}

export interface StartRule {
  /** Where the very first capture begins. */
  start: 'oldest' | 'current';
  /** What a new timeline began with: its capture begins at the file that follows exactly this, where there is one. */
  forkSet: GtidSet | null;
}

/** Where and how capture may begin. Throws QZ212x (settings), QZ321x/QZ325x (history), QZ2116 (grants). */
export async function checkSource(
  connection: MysqlConnection,
  endpoint: MysqlEndpoint,
  resume: ResumePoint | null,
  rule: StartRule,
  signal: AbortSignal,
): Promise<{ facts: SourceFacts; begin: CaptureStart }> {
  const facts = await readSourceFacts(connection);
  checkSettings(facts, connection.name);
  if (resume) {
    const begin = await checkHistory(facts, endpoint, resume, connection.name, signal);
    return { facts, begin: { ...begin, unlogged: await unloggedGtids(facts, endpoint, signal) } };
  }
  const unlogged = await unloggedGtids(facts, endpoint, signal);
  const file = await firstFile(connection, facts, endpoint, { ...rule, unlogged }, signal);
  const begin = { sourceUuid: facts.serverUuid, file, boundary: firstEventAt, captured: firstEventAt, unlogged };
  return { facts, begin: { ...begin, gtids: null, headSha256: Buffer.alloc(32), prefixCrc: null, open: null } };
}

/**
 * What a server that was made from a copy (a clone, a dump, a restore) has executed without ever logging it: Previous_gtids
 * leaves it out (gtids_only_in_table, sql/rpl_gtid_state.cc), gtid_purged holds it beside what the oldest file begins with.
 */
export async function unloggedGtids(
  facts: SourceFacts,
  endpoint: MysqlEndpoint,
  signal: AbortSignal,
): Promise<GtidSet> {
  const [oldest] = facts.files;
  if (oldest === undefined || facts.gtidPurged.isEmpty) return new GtidSet();
  return facts.gtidPurged.subtract((await readFileHead(endpoint, oldest.name, signal)).gtidsBefore);
}

/** Configuration errors, each with its remedy. */
export function checkSettings(facts: SourceFacts, server: string): void {
  if (facts.isMariaDb)
    throw configurationError(
      'QZ2120',
      `${server} is MariaDB (${facts.version}), which cannot be captured yet.`,
      'Name a MySQL server of version 8.0 or later.',
    );
  if (facts.versionNumber < 80_002)
    throw configurationError(
      'QZ2121',
      `${server} runs MySQL ${facts.version}; its GTID events do not tell how long a transaction is.`,
      'Upgrade it to MySQL 8.0 or later.',
    );
  if (!facts.logBin)
    throw configurationError(
      'QZ2122',
      `The binary log of ${server} is off: there is nothing to capture.`,
      'Put log_bin=binlog and server_id=1 under [mysqld] in its my.cnf (and remove skip-log-bin), then restart it.',
    );
  if (facts.binlogFormat !== 'ROW')
    throw configurationError(
      'QZ2123',
      `${server} has binlog_format ${facts.binlogFormat}: replaying statements does not give the same rows.`,
      "Run SET PERSIST binlog_format = 'ROW', then restart its clients; `qazyna doctor --fix` does it.",
    );
  if (facts.gtidMode !== 'ON')
    throw configurationError(
      'QZ2124',
      `${server} has gtid_mode ${facts.gtidMode}: its transactions cannot be told apart.`,
      'Run `qazyna doctor --fix`: it turns gtid_mode ON while the server runs.',
    );
  if (facts.enforceGtidConsistency !== 'ON')
    throw configurationError(
      'QZ2125',
      `${server} has enforce_gtid_consistency ${facts.enforceGtidConsistency}.`,
      "Run SET PERSIST enforce_gtid_consistency = 'ON', or `qazyna doctor --fix`.",
    );
}

async function firstFile(
  connection: MysqlConnection,
  facts: SourceFacts,
  endpoint: MysqlEndpoint,
  { start, forkSet, unlogged }: StartRule & { unlogged: GtidSet },
  signal: AbortSignal,
): Promise<string> {
  const head = (name: string) => readFileHead(endpoint, name, signal);
  const following = forkSet === null ? null : await fileBehind(facts.files, forkSet.subtract(unlogged), head);
  if (following !== null) return following;
  if (start === 'current') return (await binlogStatus(connection)).file;
  return await oldestWithGtids(facts.files, head, connection.name);
}

/** The newest file that begins with exactly these; null when none does. */
async function fileBehind(
  files: readonly BinlogFile[],
  gtids: GtidSet,
  head: (file: string) => Promise<SourceFileHead>,
): Promise<string | null> {
  for (const { name } of [...files].reverse()) {
    const { gtidsBefore } = await head(name);
    if (gtidsBefore.equals(gtids)) return name;
    if (!gtidsBefore.containsAll(gtids)) return null;
  }
  return null;
}

/**
 * The oldest file from which on every file begins with a GTID: gtid_mode may have been turned on later, and what was written
 * before cannot be replayed by GTID. The server begins a new file at each change of gtid_mode.
 */
async function oldestWithGtids(
  files: readonly BinlogFile[],
  head: (file: string) => Promise<SourceFileHead>,
  server: string,
): Promise<string> {
  let oldest: string | null = null;
  for (const file of [...files].reverse()) {
    if ((await head(file.name)).firstTransaction === 'anonymous') break;
    oldest = file.name;
  }
  if (oldest !== null) return oldest;
  throw configurationError(
    'QZ2126',
    `The present binlog file of ${server} begins with a transaction without GTID.`,
    'Run FLUSH BINARY LOGS on it and start again.',
  );
}

async function checkHistory(
  facts: SourceFacts,
  endpoint: MysqlEndpoint,
  resume: ResumePoint,
  server: string,
  signal: AbortSignal,
): Promise<Omit<CaptureStart, 'unlogged'>> {
  const { range } = resume;
  if (facts.serverUuid !== resume.sourceUuid)
    throw integrityError(
      'QZ3250',
      `${server} has server_uuid ${facts.serverUuid}, but ${resume.sourceUuid} was captured: it is another server, or its data folder was made anew.`,
      timelineHint,
    );
  checkFile(facts.files, range.file, range.end, server);
  // Captured and durable, a commit may still wait for our acknowledgement: then it is in the binlog and not executed.
  const missing = resume.gtids.subtract(facts.gtidExecuted).subtract(facts.gtidOwned);
  if (!missing.isEmpty)
    throw integrityError(
      'QZ3251',
      `${server} no longer has ${missing}, which was captured: it was rolled back or reset.`,
      timelineHint,
      { details: { missing: missing.toString(), gtidExecuted: facts.gtidExecuted.toString() } },
    );
  if (!range.fileHeadSha256.equals(Buffer.alloc(32))) {
    const head = await readFileHead(endpoint, range.file, signal);
    if (!head.sha256.equals(range.fileHeadSha256))
      throw integrityError(
        'QZ3252',
        `The file ${range.file} on ${server} begins otherwise than the one that was captured: the source was reset and reuses names.`,
        timelineHint,
      );
  }
  const isOpen = range.transactionStart < range.boundary;
  return {
    sourceUuid: facts.serverUuid,
    file: range.file,
    boundary: range.boundary,
    captured: range.end,
    gtids: resume.gtids,
    headSha256: range.fileHeadSha256,
    prefixCrc: resume.prefixCrc,
    open: isOpen ? await readOpenTransaction(endpoint, range.file, range.transactionStart, signal) : null,
  };
}

/** The file must still be there, and at least as long as what was captured of it. */
function checkFile(files: readonly BinlogFile[], file: string, end: number, server: string): void {
  if (files.length === 0)
    throw transientError(
      'QZ4128',
      `${server} names none of its binlog files.`,
      'It is asked again; a server that shuts down has closed them already.',
    );
  const found = files.find((candidate) => candidate.name === file);
  const [oldest] = files;
  if (!found && oldest && compareFiles(file, oldest.name) < 0)
    throw integrityError(
      'QZ3210',
      `${server} no longer has the binlog file ${file}: it was purged before everything after byte ${end} was read (the oldest is now ${oldest.name}).`,
      'What was in between is not in the backup. Raise binlog_expire_logs_seconds, then go on with `qazyna timeline new --reason …`.',
    );
  if (!found)
    throw integrityError(
      'QZ3253',
      `${server} has no binlog file ${file}, and none newer (the newest is ${files.at(-1)?.name ?? 'missing'}): its binary logs were reset.`,
      timelineHint,
    );
  if (found.sizeBytes < end)
    throw integrityError(
      'QZ3211',
      `${server} has ${found.sizeBytes} bytes in ${file}, but ${end} were captured: it lost history (a crash without sync_binlog=1, a restored disk).`,
      timelineHint,
    );
}

/** How the server knows this agent: the same uuid for one chain, so that a zombie of ours is ended when we come back. */
export interface ReplicaIdentity {
  serverId: number;
  uuid: string;
  host: string;
}

/** `host:pid`, at most 60 bytes: what another agent of the same chain sees of us in SHOW REPLICAS. */
export function replicaHost(): string {
  const suffix = `:${process.pid}`;
  return `qazyna@${hostname()}`.slice(0, 60 - suffix.length) + suffix;
}

/**
 * Refuses when another agent of this chain reads from the source already (chain entries settle who may append; this tells the
 * operator early). A dead process of this host does not count. With `isFenced` the other one's claim is known to be older than
 * ours, in the very log that both write to: it leaves once it sees that, and is waited for. Needs REPLICATION SLAVE.
 */
export async function checkNoSecondAgent(
  connection: MysqlConnection,
  identity: ReplicaIdentity,
  { isFenced }: { isFenced: boolean },
): Promise<void> {
  for (const row of await connection.query(statementOf(connection.serverVersion, 'SHOW REPLICAS'))) {
    const uuid = String(row.Replica_UUID ?? row.Slave_UUID ?? '').toLowerCase();
    const host = String(row.Host ?? '');
    if (uuid !== identity.uuid || host === identity.host || isDeadNeighbour(host)) continue;
    const sentence = `Another agent of this source is connected to ${connection.name} already (${host}).`;
    if (isFenced)
      throw transientError(
        'QZ4129',
        sentence,
        'It is waited for: this one claimed the log after it, and it stops as soon as it sees that. If it is frozen, stop it, or KILL its connection in MySQL.',
      );
    throw configurationError(
      'QZ2127',
      sentence,
      'Run one agent for each source: stop the other one. After a lost host, its connection ends within minutes.',
    );
  }
}

/** A process of this very host that no longer runs: its connection is about to be noticed. */
function isDeadNeighbour(host: string): boolean {
  const mine = replicaHost();
  const pid = Number(/:(\d+)$/.exec(host)?.[1] ?? 0);
  if (pid === 0 || host.replace(/:\d+$/, '') !== mine.replace(/:\d+$/, '')) return false;
  if (pid === process.pid) return true;
  try {
    process.kill(pid, 0);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH';
  }
}
