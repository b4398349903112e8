/** `doctor --fix`: puts right what can be put right while the server runs. Needs an administrator's account. */
import { randomBytes } from 'node:crypto';
import { constants } from 'node:fs';
import { open, readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { configurationError, transientError } from '../../core/errors/error.ts';
import { connectMysql, type MysqlConnection, type MysqlEndpoint } from '../../core/mysql/connection.ts';
import { statementOf } from '../../core/mysql/former-names.ts';
import { globalVariables, isOn, readSourceFacts } from '../../core/mysql/source-facts.ts';
import { setSemiSync } from '../semi-sync/settings.ts';
import { hasClone } from './examine.ts';
import { fencePrivileges, neededPrivileges } from './grants.ts';

export interface FixOptions {
  /** Connects as an administrator: SYSTEM_VARIABLES_ADMIN, CREATE USER, and every privilege it grants WITH GRANT OPTION. */
  admin: MysqlEndpoint;
  /** The account to make for agent and snapshots. */
  account: {
    user: string;
    /** Where it connects from; default: this host, as the server sees it. */
    host?: string | undefined;
    /** Read when it exists, else made with a new password (mode 0600). */
    passwordFile: string;
  };
  /** Snapshots are taken by the clone engine. */
  clone: boolean;
  /** Commits are to wait for the agent's acknowledgement (RPO 0). */
  semiSync?: boolean;
  /** Told each step before it is taken. */
  say: (sentence: string) => void;
  signal: AbortSignal;
}

/** How long to wait until no anonymous transaction is open any more. */
const anonymousDeadlineMs = 60_000;

/** Does what `examine` calls fixable; each step is idempotent. Returns what was done. */
export async function fix(options: FixOptions): Promise<string[]> {
  const done: string[] = [];
  const connection = await connectMysql(options.admin, options.signal);
  const step = async (sentence: string, run: () => Promise<void>) => {
    options.say(sentence);
    await run();
    done.push(sentence);
  };
  try {
    const facts = await readSourceFacts(connection);
    if (!facts.logBin || facts.isMariaDb || facts.versionNumber < 80_002)
      options.say('the binary log, or the server itself, cannot be put right while it runs: see the findings');
    else {
      if (facts.binlogFormat !== 'ROW')
        await step('set binlog_format to ROW', async () => {
          await connection.query("SET PERSIST binlog_format = 'ROW'");
        });
      await turnGtidsOn(connection, step, options.signal);
      await nameColumns(connection, step);
    }
    await makeAccount(connection, options, step);
    if (options.clone && hasClone(facts)) await installClone(connection, step);
    if (options.semiSync === true) {
      // After the account: from here on commits wait for the agent that logs in by it.
      options.say('make commits wait for their acknowledgement');
      done.push(...(await setSemiSync(connection, { persist: true })));
    }
    return done;
  } finally {
    await connection.close();
  }
}

type Step = (sentence: string, run: () => Promise<void>) => Promise<void>;

/**
 * The online procedure of https://dev.mysql.com/doc/refman/9.7/en/replication-mode-change-online-enable-gtids.html, for a
 * server that stands alone: with replicas, every server of the topology must take each step before any takes the next.
 */
async function turnGtidsOn(connection: MysqlConnection, step: Step, signal: AbortSignal): Promise<void> {
  const values = await globalVariables(connection, ['gtid_mode', 'enforce_gtid_consistency']);
  let mode = values.get('gtid_mode')?.toUpperCase() ?? 'OFF';
  const enforced = values.get('enforce_gtid_consistency')?.toUpperCase() ?? 'OFF';
  if (mode === 'ON' && enforced === 'ON') return;
  if (mode !== 'ON') await refuseInTopology(connection);
  const set = (name: string, value: string) => async () => {
    await connection.query(`SET PERSIST ${name} = ${value}`);
  };
  if (enforced === 'OFF') await step('set enforce_gtid_consistency to WARN', set('enforce_gtid_consistency', 'WARN'));
  if (enforced !== 'ON') await step('set enforce_gtid_consistency to ON', set('enforce_gtid_consistency', 'ON'));
  if (mode === 'OFF') {
    await step('set gtid_mode to OFF_PERMISSIVE', set('gtid_mode', 'OFF_PERMISSIVE'));
    mode = 'OFF_PERMISSIVE';
  }
  if (mode === 'OFF_PERMISSIVE') {
    await step('set gtid_mode to ON_PERMISSIVE', set('gtid_mode', 'ON_PERMISSIVE'));
    mode = 'ON_PERMISSIVE';
  }
  if (mode === 'ON_PERMISSIVE') {
    await step('wait until no transaction without GTID is open', () => waitForAnonymous(connection, signal));
    await step('set gtid_mode to ON', set('gtid_mode', 'ON'));
  }
}

async function refuseInTopology(connection: MysqlConnection): Promise<void> {
  const replicas = await connection.query(statementOf(connection.serverVersion, 'SHOW REPLICAS'));
  const sources = await connection.query(statementOf(connection.serverVersion, 'SHOW REPLICA STATUS'));
  if (replicas.length === 0 && sources.length === 0) return;
  throw configurationError(
    'QZ2137',
    `${connection.name} takes part in replication: gtid_mode must be changed on all its servers in step.`,
    'Follow "Enabling GTID Transactions Online" in the MySQL manual on every server, then run doctor again.',
  );
}

async function waitForAnonymous(connection: MysqlConnection, signal: AbortSignal): Promise<void> {
  const deadlineMs = performance.now() + anonymousDeadlineMs;
  for (;;) {
    const [row] = await connection.query("SHOW GLOBAL STATUS LIKE 'Ongoing_anonymous_transaction_count'");
    if (Number(row?.Value ?? 0) === 0) return;
    if (performance.now() > deadlineMs)
      throw transientError(
        'QZ4125',
        `${connection.name} still has ${row?.Value} open transactions without GTID after ${anonymousDeadlineMs / 1000} s.`,
        'End them (see information_schema.INNODB_TRX), then run `qazyna doctor --fix` again: it goes on where it stopped.',
      );
    await sleep(100, undefined, { signal });
  }
}

async function nameColumns(connection: MysqlConnection, step: Step): Promise<void> {
  const values = await globalVariables(connection, ['binlog_row_metadata']);
  if (values.get('binlog_row_metadata')?.toUpperCase() === 'FULL') return;
  await step('set binlog_row_metadata to FULL', async () => {
    await connection.query("SET PERSIST binlog_row_metadata = 'FULL'");
  });
}

async function installClone(connection: MysqlConnection, step: Step): Promise<void> {
  const [plugin] = await connection.query(
    "SELECT PLUGIN_STATUS AS state FROM information_schema.PLUGINS WHERE PLUGIN_NAME = 'clone'",
  );
  if (plugin?.state === 'ACTIVE') return;
  await step('install the clone plugin', async () => {
    await connection.query("INSTALL PLUGIN clone SONAME 'mysql_clone.so'");
  });
}

async function makeAccount(connection: MysqlConnection, options: FixOptions, step: Step): Promise<void> {
  const { user, passwordFile } = options.account;
  const privileges = [...neededPrivileges, ...(options.semiSync === true ? fencePrivileges : [])].join(', ');
  const { password, isNew } = await passwordFrom(passwordFile);
  if (isNew) options.say(`a new password was written to ${passwordFile}`);
  for (const host of options.account.host ? [options.account.host] : await hostsOfThisClient(connection)) {
    await step(`make the account ${user}@${host} with the privileges that capture and snapshots need`, async () => {
      // Said, because an old server may still make accounts by mysql_native_password, which client programs since 9.0 lack.
      const login = '?@? IDENTIFIED WITH caching_sha2_password BY ?';
      await connection.query(`CREATE USER IF NOT EXISTS ${login}`, [user, host, password]);
      await connection.query(`ALTER USER ${login}`, [user, host, password]);
      await connection.query(`GRANT ${privileges} ON *.* TO ?@?`, [user, host]);
    });
  }
}

/** As the server sees us: local clients by name, unless it does not resolve names. */
async function hostsOfThisClient(connection: MysqlConnection): Promise<string[]> {
  const [row] = await connection.query("SELECT SUBSTRING_INDEX(USER(), '@', -1) AS host");
  const host = String(row?.host ?? 'localhost');
  if (!['localhost', '127.0.0.1', '::1'].includes(host)) return [host];
  const values = await globalVariables(connection, ['skip_name_resolve']);
  return isOn(values.get('skip_name_resolve')) ? ['localhost', '127.0.0.1'] : ['localhost'];
}

async function passwordFrom(file: string): Promise<{ password: string; isNew: boolean }> {
  try {
    const password = (await readFile(file, 'utf8')).replace(/\r?\n$/, '');
    if (password !== '' && !/[\n\0]/.test(password)) return { password, isNew: false };
    throw configurationError(
      'QZ2138',
      `The password file ${file} does not hold exactly one line.`,
      'Write the password alone into it, or remove it to have one made.',
    );
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
  }
  const password = randomBytes(24).toString('base64url');
  try {
    const flags = constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL;
    await using handle = await open(file, flags, 0o600);
    await handle.writeFile(`${password}\n`);
    await handle.sync();
  } catch (error) {
    throw configurationError(
      'QZ2139',
      `The password file ${file} cannot be written (${(error as NodeJS.ErrnoException).code ?? 'unknown'}).`,
      'Make its folder, or name another file in source.mysql.password_file.',
      { cause: error },
    );
  }
  return { password, isNew: true };
}
