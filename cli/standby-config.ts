/** The section `standby` of a configuration that has to have one. */
import type { Config, StandbyConfig } from '../core/config/config.ts';
import { configurationError } from '../core/errors/error.ts';

/** Throws QZ2715 when the configuration has none. */
export function standbyOf(config: Config): StandbyConfig {
  if (config.standby !== null) return config.standby;
  throw configurationError(
    'QZ2715',
    `${config.file} has no section \`standby\`.`,
    'Say where its server is: standby: { dir: /var/lib/qazyna/standby }. `qazyna config example` has all of it.',
  );
}
