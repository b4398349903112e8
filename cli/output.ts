/** What a verb says on stdout: text for people, or with `--json` exactly one object (or one a line where a verb says so). */

export interface Output {
  /** The verb's one result. */
  result(value: object, lines: readonly string[]): void;
  /** One of many (`history`): an object a line, or its text. Resolves when stdout can take more. */
  row(value: object, line: string): Promise<void>;
  /** Only for people; nothing with `--json`. */
  say(line: string): void;
  /** Characters in a line of the terminal; unbounded when stdout is none. */
  readonly width: number;
}

export function createOutput(stdout: NodeJS.WriteStream, json: boolean): Output {
  const print = (text: string) => stdout.write(`${text}\n`);
  return {
    result: (value, lines) => print(json ? JSON.stringify(value) : lines.join('\n')),
    row: async (value, line) => {
      if (!print(json ? JSON.stringify(value) : line)) await drained(stdout);
    },
    say: (line) => {
      if (!json) print(line);
    },
    width: stdout.isTTY ? Math.max(40, stdout.columns ?? 80) : Number.POSITIVE_INFINITY,
  };
}

function drained(stdout: NodeJS.WriteStream): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      for (const event of ['drain', 'close', 'error']) stdout.removeListener(event, done);
      resolve();
    };
    for (const event of ['drain', 'close', 'error']) stdout.once(event, done);
  });
}
