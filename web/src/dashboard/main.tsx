import { render } from "preact";
import "../shared/base.css";
import "./dashboard.css";
import { applyTheme } from "../shared/theme.ts";
import { Feed } from "./feed.ts";
import { DashboardPage } from "./page.tsx";

applyTheme();

const place = document.getElementById("page");
if (!place) throw new Error("The page has no place for the dashboard.");
const feed = new Feed();
render(<DashboardPage feed={feed} />, place);
void feed.run();
