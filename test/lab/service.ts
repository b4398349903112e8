/** One kind of real server in the lab. Each stands in a file of its own (mysql.ts, kafka.ts, s3.ts). */
export type ServiceFacts = Record<string, string | number | boolean | null>;

export interface ServiceContext {
  /** Folder of this service alone, below the lab's. */
  dir: string;
  /** What it said about itself when it last ran in this folder (its port is worth keeping); {} at first. */
  before: ServiceFacts;
  signal: AbortSignal;
  /** Every process is reported the moment it is started, before it is ready: `down` must find it whatever comes next. */
  onProcess(what: string, pid: number): void;
  /** Whether a process that was reported so still runs (only of a service that `startsOnlyMissing`). */
  isRunning(what: string): boolean;
  /** A password of this lab, made at first use and kept in a file that only we can read. */
  secret(name: string): Promise<string>;
}

export interface LabService {
  readonly name: string;
  /** Several processes, of which those that still run are left alone; others are stopped before they are started again. */
  readonly startsOnlyMissing?: boolean;
  /** Returns when the service answers. Facts hold no secrets: endpoints, files, versions. */
  start(context: ServiceContext): Promise<ServiceFacts>;
}

/** Resolves with the port that clients are told in place of a service's own: a proxy's. `before`: the one they were told last. */
export type Advertise = (port: number, before?: number) => Promise<number>;
