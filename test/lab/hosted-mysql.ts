/** A mysqld as a service of a host (host.ts): made here, run there by a unit such as distributions have. */
import { execFileSync } from 'node:child_process';
import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { neededPrivileges } from '../../agent/doctor/grants.ts';
import type { MysqlEndpoint } from '../../core/mysql/connection.ts';
import { Mysqld } from '../../core/mysql/mysqld.ts';
import { cacheFolder } from '../../core/mysql/program.ts';
import { makeEmptyData } from './empty-data.ts';
import { Host } from './host.ts';
import { labPort } from './ports.ts';

/** Of every account of such a server. */
export const hostedPassword = 'a-password-of-27-characters';
/** Where the host sees the server's folder: not below /tmp, of which a service with PrivateTmp= has its own. */
export const hosted = '/var/lib/lab';

/** A mysqld as a service of the host: the fetched or installed program, seen at the same path there. */
export class HostedMysql {
  readonly dir = mkdtempSync(join(tmpdir(), 'qazyna-service-'));
  port = 0;
  mysqld = '';

  async make(options: Record<string, string | number | boolean> = {}): Promise<void> {
    this.port = await labPort();
    const program = await Mysqld.find();
    this.mysqld = program.path;
    chmodSync(this.dir, 0o755);
    const sql = [
      `CREATE USER 'qazyna'@'%' IDENTIFIED BY '${hostedPassword}'`,
      `GRANT ${neededPrivileges.join(', ')} ON *.* TO 'qazyna'@'%'`,
      `CREATE USER 'stopper'@'localhost' IDENTIFIED BY '${hostedPassword}'`,
      "GRANT CONNECTION_ADMIN, SYSTEM_VARIABLES_ADMIN ON *.* TO 'stopper'@'localhost'",
      `CREATE USER 'app'@'%' IDENTIFIED BY '${hostedPassword}'`,
      // Not ALL: offline_mode leaves connections alone that hold CONNECTION_ADMIN.
      "GRANT PROCESS, SELECT, INSERT, CREATE ON *.* TO 'app'@'%'",
      'CREATE DATABASE t',
      'CREATE TABLE t.item (id INT AUTO_INCREMENT PRIMARY KEY, v INT)',
    ];
    const place = {
      dataDir: this.at('data'),
      errorLog: this.at('initialize.log'),
      osUser: 'root',
      options: this.#options(options),
    };
    await makeEmptyData(program, place.dataDir);
    const server = await program.start({ ...place, socket: this.at('init.sock'), port: null, initSql: sql });
    await server.stop();
    mkdirSync(this.at('run'));
    for (const folder of ['clone', 'archive']) mkdirSync(this.at(folder));
    writeFileSync(this.at('my.cnf'), this.#configuration(options));
  }

  /** To the account `mysql` of the host, whose number is another here. */
  give(uid: number, gid: number): void {
    execFileSync('chown', ['-R', `${uid}:${gid}`, this.dir]);
  }

  /** As Debian's own unit has it: notify, no ExecStop. */
  get unit(): string {
    return [
      '[Service]',
      'Type=notify',
      'User=mysql',
      `ExecStart=${this.mysqld} --defaults-file=${hosted}/my.cnf`,
      'TimeoutStopSec=60',
      'Restart=on-failure',
      'LimitNOFILE=10000',
      '[Install]',
      'WantedBy=multi-user.target',
    ].join('\n');
  }

  get endpoint(): MysqlEndpoint {
    return { host: '127.0.0.1', port: this.port, user: 'app', password: hostedPassword };
  }

  at(name: string): string {
    return join(this.dir, name);
  }

  remove(): void {
    rmSync(this.dir, { recursive: true, force: true });
  }

  #options(more: Record<string, string | number | boolean>) {
    return {
      'server-id': 31,
      'gtid-mode': true,
      'enforce-gtid-consistency': true,
      'innodb-buffer-pool-size': '64M',
      'innodb-redo-log-capacity': '32M',
      'plugin-load-add': 'mysql_clone.so',
      'skip-name-resolve': true,
      ...more,
    };
  }

  #configuration(more: Record<string, string | number | boolean>): string {
    const settings = Object.entries(this.#options(more)).map(
      ([name, value]) => `${name}=${value === true ? 'ON' : value}`,
    );
    const place = [`datadir=${hosted}/data`, `socket=${hosted}/run/mysql.sock`, `port=${this.port}`];
    const fixed = [
      'mysqlx=OFF',
      'bind-address=127.0.0.1',
      'secure-file-priv=NULL',
      `log-error=${hosted}/run/error.log`,
    ];
    return `[mysqld]\n${[...place, ...fixed, ...settings].join('\n')}\n`;
  }
}

/** A host with `mysql.service`, not started yet. */
export async function bootBeside(
  mysql: HostedMysql,
  files: Record<string, string>,
  readOnly: Record<string, string> = {},
  writable: Record<string, string> = {},
): Promise<Host> {
  const host = await Host.boot({
    readOnly: { [cacheFolder()]: cacheFolder(), ...readOnly },
    writable: { [hosted]: mysql.dir, ...writable },
    files: { '/etc/systemd/system/mysql.service': mysql.unit, ...files },
  });
  // The cache may lie below root's home, which only root may enter.
  await host.command('chmod', ['755', '/root']);
  const { output } = await host.command('id', ['-u', 'mysql']);
  mysql.give(Number(output), Number((await host.command('id', ['-g', 'mysql'])).output));
  return host;
}

export async function startMysql(host: Host): Promise<void> {
  const { code } = await host.command('systemctl', ['start', 'mysql.service']);
  if (code !== 0) throw new Error(`mysql.service did not start: ${await host.journal('mysql.service')}`);
}
