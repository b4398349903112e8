/** From a service's configuration to what captures it. */
import type { ServiceConfig } from '../../core/config/services.ts';
import type { Logger } from '../../core/logging/logger.ts';
import { GrafanaService } from '../grafana/service.ts';
import { InfluxdbService } from '../influxdb/service.ts';
import type { CapturedService } from './types.ts';

export interface OpenServiceOptions {
  logger: Logger;
  /** Where secrets are looked for (core/config/secrets.ts). */
  environment: NodeJS.ProcessEnv;
}

export function openService(config: ServiceConfig, options: OpenServiceOptions): CapturedService {
  switch (config.kind) {
    case 'influxdb':
      return new InfluxdbService(config, options);
    case 'grafana':
      return new GrafanaService(config, options);
  }
}
