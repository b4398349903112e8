/** What the launcher starts every program of ours with (bin/runtime.json): memory and speed are measured as an installed one has them. */
import { readFileSync } from 'node:fs';

export const runtime: { nodeArguments: string[]; environment: Record<string, string> } = JSON.parse(
  readFileSync(new URL('../../bin/runtime.json', import.meta.url), 'utf8'),
);
