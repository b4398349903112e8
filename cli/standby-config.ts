/** The section `standby` of a configuration that has to have one, and that this process can do what it says. */
import type { Config, StandbyConfig } from '../core/config/config.ts';
import { configurationError } from '../core/errors/error.ts';
import { pathsIn } from '../core/restore/target.ts';

/** Throws QZ2715 when the configuration has none. */
export function standbyOf(config: Config): StandbyConfig {
  if (config.standby !== null) return config.standby;
  throw configurationError(
    'QZ2715',
    `${config.file} has no section \`standby\`.`,
    'Say where its server is: standby: { dir: /var/lib/qazyna/standby }. `qazyna config example` has all of it.',
  );
}

/** Throws QZ2718 where systemd would end the server together with this service, QZ2719 where the two would not meet. */
export function requireRunner({ runBy, dir }: StandbyConfig, environment: NodeJS.ProcessEnv): void {
  if (runBy === 'qazyna' && (environment.NOTIFY_SOCKET ?? '') !== '')
    throw configurationError(
      'QZ2718',
      'As a service of systemd this standby must not run its server itself: it would be killed whenever the service ends.',
      'Set standby.run_by: systemd, and install qazyna-mysqld.path and qazyna-mysqld.service (ops/README.md).',
    );
  if (runBy === 'systemd' && !pathsIn(dir).socket.startsWith(dir))
    throw configurationError(
      'QZ2719',
      `The path of standby.dir (${dir}) is too long for the socket of its server to stand in it.`,
      'Name a folder with a shorter path, as /var/lib/qazyna/standby.',
    );
}
