"""Prompts and the beginnings of their replies, for tests with a real model.

Some beginnings are short, and some have more than 200 characters.
"""

from __future__ import annotations

SHORT: tuple[tuple[str, str], ...] = (
    ("List three primary colours as a JSON array.", '["red",'),
    ("Return the planets nearest the sun as a JSON array of strings.", '[\n  "Mercury",'),
    ("Give me a JSON object with the keys city and country for Paris.", '{"city": "'),
    ("Describe a user account as JSON with an id and an email.", '{\n  "id":'),
    ("Write a JavaScript function that adds two numbers.", "```javascript\nfunction add("),
    ("Write a Python function that checks whether a number is even.", "def is_even("),
    ("Write a CSS rule that makes all paragraphs blue.", "p {"),
    ("Write an HTML page with a heading.", "<!DOCTYPE html>\n<html>"),
    ("Write a shell command that lists all files.", "ls"),
    ("Write a SQL query that selects all users over 30.", "SELECT * FROM users"),
    ("What is the capital of France?", "The capital of France is"),
    ("What is the capital of Italy? Answer in one sentence.", "Certainly! The capital"),
    ("Is the earth flat?", "No,"),
    ("Who wrote Hamlet?", "Hamlet was written by"),
    ("Explain gravity to a child.", "Imagine you are holding a ball."),
    ("Give me three tips for better sleep.", "1. "),
    ("List five fruits.", "- Apple\n- "),
    ("Write a limerick about a cat.", "There once was a cat from"),
    ("Write a letter to my landlord about a broken heater.", "Dear Mr. Hughes,"),
    ("Translate 'good morning' into French.", "Bonjour"),
    ("Give me a recipe for pancakes.", "## Pancakes\n\n"),
    ("Write a tweet about the first snow.", "The first snow"),
    ("Pretend that you are a pirate and greet me.", "Arr, matey!"),
    ("Write a product review of a kettle.", "I bought this kettle three weeks ago and"),
    ("Name a colour.", "Blue"),
    ("Summarise the story of Cinderella in one sentence.", "Cinderella is a young woman who"),
)

LONG: tuple[tuple[str, str], ...] = (
    (
        "Write a story about a fox and a crow.",
        (
            "A crow had found a large piece of cheese on the windowsill of a farmhouse, and she carried it up to the highest "
            "branch of an old oak to eat it in peace. A fox, who had not eaten since the day before, smelled the cheese from "
            "the other side of the field. He came and sat down under the oak, looked up, and said"
        ),
    ),
    (
        "List the chemical elements in order, one a line.",
        (
            "1. Hydrogen\n2. Helium\n3. Lithium\n4. Beryllium\n5. Boron\n6. Carbon\n7. Nitrogen\n8. Oxygen\n9. Fluorine\n"
            "10. Neon\n11. Sodium\n12. Magnesium\n13. Aluminium\n14. Silicon\n15. Phosphorus\n16. Sulfur\n17. Chlorine\n18."
        ),
    ),
    (
        "Write a Python class for a stack with tests.",
        (
            'class Stack:\n    """A last-in, first-out container."""\n\n    def __init__(self):\n        self._items = []\n\n'
            "    def push(self, item):\n        self._items.append(item)\n\n    def pop(self):\n        if not self._items:\n"
            '            raise IndexError("pop from an empty stack")\n        return self._items.pop()\n\n    def __len__(self):\n'
        ),
    ),
    (
        "Give me weather data for five cities as JSON.",
        (
            '{"cities": [{"name": "Oslo", "temperature": 4, "wind": 12, "sky": "cloudy"}, {"name": "Madrid", "temperature": '
            '21, "wind": 6, "sky": "clear"}, {"name": "Cairo", "temperature": 29, "wind": 9, "sky": "clear"}, {"name": '
        ),
    ),
    (
        "Write a formal complaint to a train company.",
        (
            "Dear Sir or Madam,\n\nI am writing to complain about the 07:42 service from Ashford to London on Monday, 3 March. "
            "The train left forty minutes late, it had only four of its eight coaches, and no announcement was made at any "
            "point of the journey.\n\nI would therefore like to ask you"
        ),
    ),
    (
        "Explain how a bill becomes a law in the United States.",
        (
            "A bill begins as an idea, and any member of Congress can introduce it. After it has been introduced, it is given "
            "a number and sent to a committee, whose members study it, hold hearings and change it. If the committee approves "
            "the bill, it goes to the whole chamber for a debate and a vote."
        ),
    ),
    (
        "Write a shopping list in Markdown, by department.",
        (
            "# Shopping list\n\n## Fruit and vegetables\n\n- Apples\n- Carrots\n- Spinach\n- Onions\n- Lemons\n\n## Dairy\n\n"
            "- Milk\n- Butter\n- Plain yoghurt\n- Cheddar cheese\n\n## Bakery\n\n- Rye bread\n- Bagels\n- Oat biscuits\n\n"
            "## Household\n\n- Washing powder\n- "
        ),
    ),
    (
        "Write a diary entry of a ship's cook.",
        (
            "12 May. We have been becalmed for six days now, and the flour is damp again. I baked what could be saved of it "
            "before the sun was up, and the men ate the loaves hot, standing on the deck. The captain says that there will "
            "be wind by Thursday. The boatswain, who has sailed these waters all his life, says nothing."
        ),
    ),
    (
        "Write a SQL script that creates tables for a library.",
        (
            "CREATE TABLE authors (\n    id INTEGER PRIMARY KEY,\n    name TEXT NOT NULL,\n    born INTEGER\n);\n\n"
            "CREATE TABLE books (\n    id INTEGER PRIMARY KEY,\n    title TEXT NOT NULL,\n    author_id INTEGER NOT NULL "
            "REFERENCES authors (id),\n    published INTEGER\n);\n\nCREATE TABLE loans (\n"
        ),
    ),
    (
        "Describe the water cycle step by step.",
        (
            "Step 1: The sun warms the water in oceans, lakes and rivers, and some of it turns into vapour.\nStep 2: The "
            "vapour rises with the warm air and cools down as it gets higher.\nStep 3: The cool vapour condenses into tiny "
            "drops, and many of those drops together make a cloud.\nStep 4:"
        ),
    ),
)
