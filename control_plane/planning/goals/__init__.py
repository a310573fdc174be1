"""From a goal in words to a graph that is checked: `planner.py` is the way in, `stages.py` the order of the steps.

words.py      stems, kinds of media, units: the language, English and some German; knows no task
reading.py    understand: a goal becomes tokens, quotes, quantities, topics, negations
offers.py     the live manifest and the pipelines as offers: what they take, what they make, by which words people ask for them
drafting.py   choose and draft: offers are chained backwards from what is wanted to what is given
filling.py    parameters, where a word or number of the goal and the parameter's schema justify a value
answering.py  explain: reasons, assumptions, questions, how sure
modelling.py  the same with a language model, whose drafts are checked like any other submission
"""
