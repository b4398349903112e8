/** `qazyna shipper [--archive NAME]`: brings what the log holds into archives. */
import { type Command, InvalidArgumentError } from 'commander';
import { parseListen } from '../core/config/keys.ts';
import { nearestWord } from '../core/config/nearest.ts';
import { configurationError } from '../core/errors/error.ts';
import { runDaemon } from './daemon.ts';
import { addVerb, type Context, type Frame } from './verb.ts';

interface ShipperOptions {
  archive?: string;
  listen?: { host: string; port: number };
}

export function addShipper(program: Command, frame: Frame): void {
  addVerb<ShipperOptions>(program, frame, {
    usage: 'shipper',
    summary: 'bring what the log holds into the archives',
    about:
      'With a Kafka log: on any host that reaches the brokers and the archive, beside the agent or far from it; several at once do no harm. With a local log the agent does this itself and holds the log: then this verb is for a host whose agent or MySQL is not to be started again. Runs until it is stopped.',
    examples: [
      ['shipper', 'Every archive of the configuration'],
      ['shipper --archive offsite', 'Only one'],
      ['shipper --archive offsite --listen 127.0.0.1:9310', 'Beside an agent that has the same configuration'],
    ],
    daemon: true,
    options: (command) => {
      command.option('--archive <name>', 'only this archive');
      command.option('--listen <host:port>', 'answer status there (else http.listen)', listenAddress);
    },
    run,
  });
}

async function run(context: Context, options: ShipperOptions): Promise<number> {
  const config = await context.config();
  const archives = config.archives.filter(({ name }) => options.archive === undefined || name === options.archive);
  if (archives.length === 0) {
    const names = config.archives.map(({ name }) => name);
    const near = nearestWord(options.archive ?? '', names);
    throw configurationError(
      'QZ2020',
      `There is no archive named ${options.archive} in ${config.file}.`,
      `${near === null ? '' : `Did you mean ${near}? `}It has ${names.join(', ')}.`,
    );
  }
  const role = options.archive === undefined ? 'shipper' : `shipper-${options.archive}`;
  const listen = options.listen ?? config.http;
  return await runDaemon(context, { role, captures: false, ships: true, archives, listen });
}

function listenAddress(text: string): { host: string; port: number } {
  const listen = parseListen(text);
  if (listen === null) throw new InvalidArgumentError('It must be an address and port such as 127.0.0.1:9310.');
  return listen;
}
