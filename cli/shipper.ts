/** `qazyna shipper [--archive NAME]`: brings what a local log holds into archives while no agent runs. */
import { join } from 'node:path';
import type { Command } from 'commander';
import { Alarms } from '../agent/alarms.ts';
import { KnownArchives } from '../core/archive/known.ts';
import { nearestWord } from '../core/config/nearest.ts';
import { configurationError, exitCodes } from '../core/errors/error.ts';
import { LocalLog } from '../core/log/local/log.ts';
import { ArchiveWorker } from './archive-worker.ts';
import { addVerb, type Context, type Frame } from './verb.ts';

interface ShipperOptions {
  archive?: string;
}

export function addShipper(program: Command, frame: Frame): void {
  addVerb<ShipperOptions>(program, frame, {
    usage: 'shipper',
    summary: 'bring what the log holds into the archives while no agent runs',
    about:
      'With a local log the agent does this itself and holds the log; this verb is for a host whose agent or MySQL is not to be started again. Runs until it is stopped.',
    examples: [
      ['shipper', 'Every archive of the configuration'],
      ['shipper --archive offsite', 'Only one'],
    ],
    daemon: true,
    options: (command) => {
      command.option('--archive <name>', 'only this archive');
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
  const { logger, signal } = context;
  const { dir, maxSizeBytes } = config.log.local;
  const log = await LocalLog.open({ dir, maxBytes: maxSizeBytes, logger });
  try {
    const known = new KnownArchives(join(dir, 'archives.json'));
    const alarms = new Alarms(logger);
    const sourceName = config.source.name;
    const workers = archives.map((archive) => new ArchiveWorker({ archive, sourceName, known, alarms, logger }));
    await Promise.all(workers.map((worker) => worker.run(log, signal)));
  } finally {
    await log.close();
  }
  return exitCodes.done;
}
