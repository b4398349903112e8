/** What a lab writes down in its folder: what it started there, and what each service said of itself. */
import { readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ProcessIdentity } from './processes.ts';
import type { ServiceFacts } from './service.ts';

export const stateFile = 'lab.json';

export interface RecordedProcess extends ProcessIdentity {
  what: string;
}

export interface ServiceState {
  facts: ServiceFacts;
  processes: RecordedProcess[];
}

export interface LabState {
  /** Marks the folder as a lab's: only such a folder is ever emptied. */
  lab: 1;
  httpPort: number;
  services: Record<string, ServiceState>;
}

/** A broker may have been started again and again. */
export function lastOfEach(processes: readonly RecordedProcess[]): RecordedProcess[] {
  return [...new Map(processes.map((process) => [process.what, process])).values()];
}

export function readState(dir: string): LabState | null {
  try {
    const state: unknown = JSON.parse(readFileSync(join(dir, stateFile), 'utf8'));
    return typeof state === 'object' && state !== null && 'lab' in state ? (state as LabState) : null;
  } catch {
    return null;
  }
}

/** Synchronous and atomic: it is called between a process's start and anything that could fail. */
export function writeState(dir: string, state: LabState): void {
  const path = join(dir, stateFile);
  writeFileSync(`${path}.part`, `${JSON.stringify(state, null, 2)}\n`);
  renameSync(`${path}.part`, path);
}
