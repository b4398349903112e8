/** From a service's configuration to what captures it. */
import type { ServiceConfig } from '../../core/config/services.ts';
import type { Logger } from '../../core/logging/logger.ts';
import type { CapturedService } from './types.ts';

export interface OpenServiceOptions {
  logger: Logger;
  /** Where secrets are looked for (core/config/secrets.ts). */
  environment: NodeJS.ProcessEnv;
}

export function openService(config: ServiceConfig, _options: OpenServiceOptions): CapturedService {
  throw new Error(`nothing captures ${config.kind} yet`);
}
