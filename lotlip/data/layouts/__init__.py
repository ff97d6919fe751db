"""Images with their texts as this project and the published evaluation sets lay them out.

Source: METHOD "Evaluation sets and their layouts".
"""
