/** Whether node_modules below `folder` (default: this checkout) holds exactly what package-lock.json asks for. */
export function isInstalled(folder?: string): boolean;
