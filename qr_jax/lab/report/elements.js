"use strict";
// Elements, numbers and words. Text enters the document by textContent alone: nothing here parses markup.

function make(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function draw(tag, attributes, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

function one(selector) {
  return document.querySelector(selector);
}

// A number as the axis or the readout of its unit shows it.
function written(value, unit) {
  if (value === null || value === undefined) return "–";
  if (unit === "share")
    return value >= 0.9995 ? value.toFixed(2) : value.toFixed(3).replace(/^0/, "").replace(/^-0/, "−");
  if (unit === "number") return trimmed(Number(value.toPrecision(3)));
  if (unit === "nats") return value === 0 ? "0" : Math.abs(value) < 0.01 ? power(value) : value.toFixed(3);
  if (unit === "seconds") return value < 0.095 ? `${(1000 * value).toFixed(0)} ms` : `${value.toFixed(2)} s`;
  if (unit === "milliseconds")
    return value < 1
      ? `${trimmed(Number(value.toPrecision(2)))} ms`
      : value < 10
        ? `${value.toFixed(1)} ms`
        : `${value.toFixed(0)} ms`;
  return Math.abs(value) >= 100 ? Math.round(value).toLocaleString("en") : String(Math.round(10 * value) / 10);
}

function tick(value, unit) {
  if (unit === "share")
    return value === 0 ? "0" : value === 1 ? "1" : value.toFixed(2).replace(/^0/, "").replace(/0$/, "");
  if (unit === "number") return trimmed(value);
  if (unit === "nats") return power(value);
  if (unit === "seconds") return `${trimmed(value)} s`;
  if (unit === "milliseconds") return `${trimmed(value)} ms`;
  if (value >= 1e6) return `${trimmed(value / 1e6)}M`;
  if (value >= 1e4) return `${trimmed(value / 1e3)}k`;
  return value.toLocaleString("en");
}

function trimmed(value) {
  return String(Number(value.toPrecision(6)));
}

function power(value) {
  const exponent = Math.floor(Math.log10(Math.abs(value)) + 1e-9);
  const digits = value / 10 ** exponent;
  const raised = String(exponent).replace(/./g, (c) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[c] || "⁻");
  return Math.abs(digits - 1) < 1e-6 ? `10${raised}` : `${digits.toFixed(1)}·10${raised}`;
}

// Round numbers from 0 (or low) to high, about `count` of them.
function ticks(low, high, count) {
  const rough = (high - low) / Math.max(count, 1);
  const size = 10 ** Math.floor(Math.log10(rough || 1));
  const step = [1, 2, 2.5, 5, 10].map((one) => one * size).find((one) => one >= rough * 0.999) || size;
  const found = [];
  for (let at = Math.ceil(low / step - 1e-9) * step; at <= high + step * 1e-6; at += step)
    found.push(Number(at.toPrecision(12)));
  return found;
}

function plural(count, word) {
  return `${count.toLocaleString("en")} ${word}${count === 1 ? "" : "s"}`;
}

const VERDICTS = { hard: "all wrong", easy: "all right", signal: "mixed", fault: "faulted" };
const ORIGINS = {
  fresh: "never drawn before",
  ex_hard: "all wrong before",
  ex_easy: "all right before",
  ex_surplus: "surplus before",
  ex_consumed: "accepted before",
};

const measure = document.createElement("canvas").getContext("2d");

// How wide a name stands on the page, in pixels.
function wide(text) {
  measure.font = `600 12.5px ${getComputedStyle(document.body).fontFamily}`;
  return measure.measureText(text).width;
}
