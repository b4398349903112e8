/** `qazyna config example | check`. */
import type { Command } from 'commander';
import { KeyRing } from '../core/archive/keys.ts';
import { configExample } from '../core/config/example.ts';
import { readSecret } from '../core/config/secrets.ts';
import { exitCodes, QazynaError } from '../core/errors/error.ts';
import { toFailure } from './failure.ts';
import { addVerb, type Context, type Frame } from './verb.ts';

export function addConfig(program: Command, frame: Frame): void {
  const config = program.command('config').summary('write an example configuration, or check one').helpCommand(false);
  addVerb(config, frame, {
    usage: 'example',
    summary: 'print a whole configuration with a comment on every key',
    examples: [['config example > /etc/qazyna/config.yaml', 'Begin a configuration']],
    run: async (context) => {
      const example = configExample();
      context.out.result({ example }, [example.trimEnd()]);
      return exitCodes.done;
    },
  });
  addVerb(config, frame, {
    usage: 'check',
    summary: 'check the configuration and the secret files it names, without connecting anywhere',
    examples: [['config check --config /etc/qazyna/config.yaml', 'List everything that is wrong with a file']],
    run: checkConfig,
  });
}

async function checkConfig(context: Context): Promise<number> {
  const file = context.configFile;
  try {
    const config = await context.config();
    const warnings: string[] = [];
    const secret = config.source.mysql?.passwordFile ?? null;
    if (secret !== null)
      await readSecret(secret, { warn: (sentence) => warnings.push(sentence), environment: context.environment });
    const keys = { warn: (sentence: string) => warnings.push(sentence), environment: context.environment };
    for (const { encryption } of config.archives) if (encryption !== null) await KeyRing.read(encryption, keys);
    const archives = config.archives.map(({ name, url, failureDomain }) => ({ name, url, failureDomain }));
    context.out.result({ file, valid: true, source: config.source.name, archives, warnings, problems: [] }, [
      `${file} is good: source ${config.source.name}, archives ${archives.map(({ name }) => name).join(', ')}.`,
      ...warnings.map((warning) => `warning: ${warning}`),
    ]);
    return exitCodes.done;
  } catch (error) {
    if (!(error instanceof QazynaError)) throw error;
    const { code, message, hint, details } = error;
    const problems = (details.problems ?? [{ code, message, hint }]) as {
      code: string;
      message: string;
      hint: string;
    }[];
    if (context.json) context.out.result({ ...toFailure(error, null).json, file, valid: false, problems }, []);
    else for (const each of problems) context.out.say(`${each.code}: ${each.message}\n  hint: ${each.hint}`);
    return error.exitCode;
  }
}
