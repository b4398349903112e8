/** `qazyna binlog export FILE`: a binlog file as the server had it, byte for byte. */
import { basename, resolve } from 'node:path';
import type { Command } from 'commander';
import { configurationError, exitCodes } from '../core/errors/error.ts';
import { ArchiveHistory } from '../core/history/open.ts';
import { formatBytes, formatCount } from '../core/progress/format.ts';
import { type ArchiveOptions, archiveOptions, openOneArchive } from './archives.ts';
import { addVerb, type Context, type Frame, wholeNumber } from './verb.ts';

interface ExportOptions extends ArchiveOptions {
  timeline?: number;
  output?: string;
}

const endings = {
  rotate: 'whole: the server went on to the next file',
  stop: 'whole: the server was shut down',
  open: 'as far as it is archived: its end is not (yet)',
} as const;

export function addBinlog(program: Command, frame: Frame): void {
  const binlog = program.command('binlog').summary('get binlog files back as the server had them').helpCommand(false);
  addVerb<ExportOptions>(binlog, frame, {
    usage: 'export <file>',
    summary: 'write a binlog file as the server had it, byte for byte, and print its SHA-256',
    examples: [
      ['binlog export binlog.000042', 'Write ./binlog.000042 out of the first archive of the configuration'],
      [
        'binlog export --timeline 1 --from file:///srv/qazyna --output /tmp/b.42 binlog.000042',
        'From an older timeline of an archive',
      ],
    ],
    options: (command) => {
      command.option(
        '--timeline <n>',
        'the timeline that the file belongs to (default: the newest one)',
        wholeNumber(1, 2 ** 31),
      );
      command.option('--output <path>', 'file to be made (default: the same name in the working folder)');
      archiveOptions(command);
    },
    run,
  });
}

async function run(context: Context, options: ExportOptions, file = ''): Promise<number> {
  if (file === '' || file !== basename(file))
    throw configurationError(
      'QZ2029',
      `${JSON.stringify(file)} is no name of a binlog file.`,
      'Write it as the server does, without a path: binlog.000042.',
    );
  const archive = await openOneArchive(context, options);
  const { signal, logger } = context;
  const history = await ArchiveHistory.open(archive.store, archive.source, { signal, logger });
  const { exportBinlog } = await import('../restore-tool/export.ts');
  const step = context.progress.step(`exporting ${file}`);
  const result = await exportBinlog({
    history,
    generation: options.timeline ?? history.newest?.generation ?? 1,
    file,
    output: resolve(options.output ?? file),
    signal,
    onProgress: ({ doneBytes, totalBytes }) => {
      step.setTotal(totalBytes);
      step.set(doneBytes);
    },
  });
  step.end();
  context.out.result({ export: { source: archive.source, archive: archive.name, ...result } }, [
    `${result.output}: ${formatBytes(result.sizeBytes)}, ${formatCount(result.transactions)} transactions, ${endings[result.ending]}.`,
    `SHA-256 ${result.sha256}`,
  ]);
  return exitCodes.done;
}
