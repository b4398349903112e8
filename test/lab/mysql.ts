/** A real mysqld as the source to protect: binlog in ROW format, GTIDs on; or with `stock`, as it is shipped. */
import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { neededPrivileges } from '../../agent/doctor/grants.ts';
import { Mysqld, type MysqldHandle, type MysqldOptions } from '../../core/mysql/mysqld.ts';
import { makeEmptyData } from './empty-data.ts';
import type { LabService, ServiceContext, ServiceFacts } from './service.ts';

export interface MysqlServiceOptions {
  /** As MySQL 8 is shipped: the server's own settings, no clone plugin, and no account `qazyna`: for `doctor --fix`. */
  stock?: boolean;
  /** More server options, over the lab's. */
  options?: MysqldOptions;
  mysqld?: string | undefined;
}

const labOptions: MysqldOptions = {
  'server-id': 101,
  'gtid-mode': true,
  'enforce-gtid-consistency': true,
  'binlog-format': 'ROW',
  'innodb-buffer-pool-size': '128M',
  'innodb-redo-log-capacity': '64M',
  'plugin-load-add': 'mysql_clone.so',
  'skip-name-resolve': true,
  // A server just killed may hold its port a moment longer.
  'port-open-timeout': 3,
};

/** Since 9.x GTIDs are on by default; the servers in the field have them off. */
const stockOptions: MysqldOptions = { 'gtid-mode': false, 'enforce-gtid-consistency': false };

export class MysqlService implements LabService {
  readonly name = 'mysql';
  readonly #wanted: MysqlServiceOptions;
  /** Set once it runs and was started by this very process. */
  handle: MysqldHandle | null = null;

  constructor(wanted: MysqlServiceOptions = {}) {
    this.#wanted = wanted;
  }

  async start(context: ServiceContext): Promise<ServiceFacts> {
    const mysqld = await Mysqld.find(this.#wanted.mysqld);
    const dataDir = join(context.dir, 'data');
    const socket = join(context.dir, 'mysql.sock');
    const stock = this.#wanted.stock ?? context.before.stock === true;
    const options = { ...(stock ? stockOptions : labOptions), ...this.#wanted.options };
    // The lab's folders belong to whoever runs it; mysqld runs as the same.
    const osUser = process.getuid?.() === 0 ? 'root' : undefined;
    const place = { dataDir, osUser, options, signal: context.signal };
    await mkdir(context.dir, { recursive: true });
    const isNew = !existsSync(dataDir);
    if (isNew) await makeEmptyData(mysqld, dataDir);
    this.handle = await mysqld.start({
      ...place,
      socket,
      port: 'free',
      preferredPort: isNew ? undefined : Number(context.before.port) || undefined,
      errorLog: join(context.dir, 'error.log'),
      initSql: await accounts(context, stock),
      onSpawn: (pid) => context.onProcess('mysqld', pid),
    });
    const { port, errorLog } = this.handle;
    return { version: mysqld.version, host: '127.0.0.1', port, socket, dataDir, errorLog, stock };
  }
}

/** Statements that may run again at each start. Outside the binlog, as accounts made before it began would be. */
async function accounts(context: ServiceContext, stock: boolean): Promise<string[]> {
  const account = async (user: string, grants: string) => [
    `CREATE USER IF NOT EXISTS ${user} IDENTIFIED BY '${await context.secret(user.split('@')[0]?.replaceAll("'", '') ?? '')}'`,
    `GRANT ${grants} TO ${user}`,
  ];
  return [
    'SET SESSION sql_log_bin = 0',
    `ALTER USER 'root'@'localhost' IDENTIFIED BY '${await context.secret('root')}'`,
    ...(await account("'root'@'127.0.0.1'", 'ALL ON *.*')),
    "GRANT GRANT OPTION ON *.* TO 'root'@'127.0.0.1'",
    ...(await account("'app'@'%'", 'SELECT, INSERT, UPDATE, DELETE, CREATE, ALTER, DROP, INDEX, REFERENCES ON *.*')),
    ...(stock ? [] : await account("'qazyna'@'%'", `${neededPrivileges.join(', ')} ON *.*`)),
  ];
}
