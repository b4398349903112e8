/**
 * A pair of hosts whose commits wait for the log: two `qazyna standby`, a topic on one broker, a shipper. Each looks at the
 * other one; the lab's own server, from which both were made, is gone.
 */
import { readFile, writeFile } from 'node:fs/promises';
import { setSemiSync } from '../../agent/semi-sync/settings.ts';
import { Lab, type LabOptions } from './lab.ts';
import { StandbyHost } from './pair.ts';
import { labPort } from './ports.ts';
import { connected, RunningDaemon, verb } from './running.ts';

export interface TwoHostsOptions {
  /** YAML of `standby.failover`, of both. */
  failover: string;
  /** Run on the first server, before anything reads from it. */
  sql: readonly string[];
  lab?: LabOptions;
}

export class TwoHosts implements AsyncDisposable {
  readonly lab: Lab;
  readonly shipper: RunningDaemon;
  primary: StandbyHost;
  standby: StandbyHost;

  private constructor(lab: Lab, shipper: RunningDaemon, primary: StandbyHost, standby: StandbyHost) {
    this.lab = lab;
    this.shipper = shipper;
    this.primary = primary;
    this.standby = standby;
  }

  static async open({ failover, sql, lab: options = {} }: TwoHostsOptions): Promise<TwoHosts> {
    const lab = await Lab.start({ ...options, kafka: 1 });
    const text = await readFile(lab.configFile, 'utf8');
    await writeFile(lab.configFile, text.replace('  name: agama\n', '  name: agama\n  acknowledge_after: log\n'));
    const source = await connected(lab.mysql.root);
    // Both servers are made from this one, with its accounts.
    for (const statement of [...sql, "GRANT SYSTEM_VARIABLES_ADMIN, CONNECTION_ADMIN ON *.* TO 'qazyna'@'%'"])
      await source.query(statement);
    await setSemiSync(source, { persist: false });
    await source.close();
    const agent = new RunningDaemon(lab, {}, ['agent']);
    const shipper = new RunningDaemon(lab, {}, ['shipper', '--listen', '127.0.0.1:0']);
    const ports = [await labPort(), await labPort()];
    const one = await StandbyHost.create(lab, { name: 'one', failover, port: ports[0], primaryPort: ports[1] });
    const two = await StandbyHost.create(lab, { name: 'two', failover, port: ports[1], primaryPort: ports[0] });
    const pair = new TwoHosts(lab, shipper, one, two);
    try {
      one.start();
      await one.untilFollowing();
      const { code, stderr } = await verb(['promote', '--old-primary-is-off', '--config', one.configFile]);
      if (code !== 0) throw new Error(`the first promotion: ${stderr}`);
      await agent.end('SIGKILL');
      await lab.mysql.handle?.kill();
      two.start();
      await one.until('the primary', ({ standby, rpoZero }) => standby?.isWritable === true && rpoZero);
      await two.untilFollowing();
      await two.untilPlanned(({ rpoZero }) => rpoZero);
      return pair;
    } catch (error) {
      await agent.end('SIGKILL');
      await pair[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** What was the standby is the primary now. */
  exchange(): void {
    [this.primary, this.standby] = [this.standby, this.primary];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.primary.destroy();
    await this.standby.destroy();
    await this.shipper.end('SIGTERM');
    await this.lab.stop();
  }
}
