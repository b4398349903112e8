/** A real Telegraf on loopback that takes syslog over TCP and writes to two places, as a user's would. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ensureTools } from '../../scripts/setup/tools.ts';
import { labPort } from './ports.ts';

const readyWithinMs = 30_000;

export class TelegrafLab implements AsyncDisposable {
  readonly port: number;
  readonly #logFile: string;
  readonly #child: ChildProcess;

  private constructor(port: number, logFile: string, child: ChildProcess) {
    this.port = port;
    this.#logFile = logFile;
    this.#child = child;
  }

  /** `outputs`: URLs that speak as InfluxDB 1.x does. */
  static async start(dir: string, database: string, outputs: readonly string[]): Promise<TelegrafLab> {
    const { paths } = await ensureTools(['telegraf']);
    const port = await labPort();
    const configFile = join(dir, 'telegraf.conf');
    const logFile = join(dir, 'telegraf.log');
    await writeFile(configFile, configText(port, database, outputs));
    const output = openSync(logFile, 'a');
    const child = spawn(paths.telegraf ?? '', ['--config', configFile], { stdio: ['ignore', output, output] });
    await once(child, 'spawn');
    closeSync(output);
    const telegraf = new TelegrafLab(port, logFile, child);
    const deadline = performance.now() + readyWithinMs;
    while (!(await telegraf.#isUp())) {
      if (performance.now() > deadline || child.exitCode !== null)
        throw new Error(`telegraf did not start: ${await telegraf.log()}`);
      await sleep(50);
    }
    return telegraf;
  }

  log(): Promise<string> {
    return readFile(this.#logFile, 'utf8');
  }

  /** RFC 5424 behind octet counts (RFC 6587). */
  async send(messages: readonly string[]): Promise<void> {
    const socket = connect(this.port, '127.0.0.1');
    for (const message of messages) socket.write(`${Buffer.byteLength(message)} ${message}`);
    socket.end();
    await once(socket, 'close');
  }

  async #isUp(): Promise<boolean> {
    const socket = connect(this.port, '127.0.0.1');
    return await new Promise<boolean>((resolve) => {
      socket.once('connect', () => resolve(true)).once('error', () => resolve(false));
    }).finally(() => socket.destroy());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null) return;
    const ended = once(this.#child, 'exit');
    this.#child.kill('SIGKILL');
    await ended;
  }
}

function configText(port: number, database: string, outputs: readonly string[]): string {
  const each = outputs.map(
    (url) => `
[[outputs.influxdb]]
  urls = ["${url}"]
  database = "${database}"
  timeout = "5s"
`,
  );
  return `
[agent]
  interval = "1s"
  flush_interval = "1s"
  metric_batch_size = 100
  metric_buffer_limit = 100000
  omit_hostname = true
${each.join('')}
[[inputs.syslog]]
  server = "tcp://127.0.0.1:${port}"
`;
}
